"""What goes with a broker: its keys, what its log lets go, and how it does."""
