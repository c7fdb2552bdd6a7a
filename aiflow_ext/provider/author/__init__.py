"""The Dag author's side."""
