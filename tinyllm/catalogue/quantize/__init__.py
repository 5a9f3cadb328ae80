"""Quantized weights: quantize, dequantize, and the schemes they are held in."""
