"""The scheduler's process: its runner, what wakes it, and when time alone makes work."""
