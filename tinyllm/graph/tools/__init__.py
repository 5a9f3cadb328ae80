"""What looks into a bound program while it runs."""
