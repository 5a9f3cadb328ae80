"""Writes a model with weights of fewer bits, as an MLX folder or a GGUF file, tensor by tensor."""
