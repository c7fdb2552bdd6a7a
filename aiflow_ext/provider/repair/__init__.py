"""What an administrator, or a change of mode, sets right: the consumer's place in the log, tasks that wait."""
