"""The reaction to events: one transaction."""
