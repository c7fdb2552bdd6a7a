"""The client: it publishes, reads, subscribes and listens, and knows where the broker is."""
