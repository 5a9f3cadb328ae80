"""Structured output: replies that a JSON schema, a regular expression or a list of choices allows. llguidance does the
parsing."""
