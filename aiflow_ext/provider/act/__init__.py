"""The actions of rules: start and stop tasks, make and end runs."""
