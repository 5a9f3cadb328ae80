"""The HTTP server: OpenAI's API, a page to chat with the model, health and metrics, as an ASGI app."""
