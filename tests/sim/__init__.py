"""A deterministic simulation of the whole scheduler; docs/simulation.md says what it drives and what it checks."""
