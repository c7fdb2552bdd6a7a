"""The names of other systems, with our log and broker below them, so that their users change an import and no more."""
