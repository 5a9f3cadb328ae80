"""Makes the repository's root importable for the tests (`from tests.ops import harness`)."""
