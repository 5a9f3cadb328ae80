"""What a run of the kit leaves behind: a report, and the forms in which it is kept, shown and compared."""
