"""OpenAI's API without HTTP: bodies of requests, the sequences that they ask for, replies and errors."""
