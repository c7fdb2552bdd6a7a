"""The client's side: publish, read, subscribe and listen, and where the broker is."""
