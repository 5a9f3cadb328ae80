"""Rotary position embeddings: rope, rope_angles, rope_rotate."""
