"""The one decoder graph, and the record that it is built from."""
