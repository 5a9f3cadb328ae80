"""Checkpoints of every file format: config, tensors and where they lie."""
