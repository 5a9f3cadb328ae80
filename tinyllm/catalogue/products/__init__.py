"""Products and tables: linear and embedding."""
