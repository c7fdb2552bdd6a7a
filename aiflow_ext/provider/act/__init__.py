"""What rules do: start and stop tasks, make and end runs."""
