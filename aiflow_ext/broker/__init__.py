"""Beside a broker: its keys, what it lets go, and how it does."""
