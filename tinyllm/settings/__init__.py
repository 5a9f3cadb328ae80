"""Settings: what each may be, what files and environment variables say, and where each value came from."""
