"""`tinyllm new-backend`: the command, and the template of the files that it writes."""
