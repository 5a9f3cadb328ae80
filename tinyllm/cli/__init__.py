"""The `tinyllm` command: a module for each of its sub-commands, and what they share."""
