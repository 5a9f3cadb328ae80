"""What looks at a graph, and into a bound program while it runs."""
