"""Asset events and events, each made of the other."""
