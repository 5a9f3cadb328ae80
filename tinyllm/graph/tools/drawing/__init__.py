"""A graph as something to look at: equal blocks folded, what is known of each node, where it stands, and the files."""
