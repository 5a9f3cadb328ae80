"""What an op says of itself, before there is any backend: its arguments, types, cases, checks and reference."""
