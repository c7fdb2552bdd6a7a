"""What the scheduler's process does between two passes, and in them."""
