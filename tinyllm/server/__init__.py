"""The HTTP face of the engine: an OpenAI-compatible server."""
