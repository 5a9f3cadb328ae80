"""Files of requests in OpenAI's batch format, answered many at a time."""
