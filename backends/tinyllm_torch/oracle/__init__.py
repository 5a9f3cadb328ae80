"""The oracle `torch`: the ops in PyTorch's own functions and float64. It shares no code with the kernels of this
backend."""
