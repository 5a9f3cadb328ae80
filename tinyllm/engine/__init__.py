"""Runs requests on a bound model: the scheduler and its pages, sequences, sampling, grammars, the engine's thread."""
