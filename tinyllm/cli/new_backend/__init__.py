"""`tinyllm new-backend`: the command, and the files that it writes."""
