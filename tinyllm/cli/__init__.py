"""The `tinyllm` command, a module per sub-command."""
