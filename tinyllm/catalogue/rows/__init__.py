"""Ops of a row or an element: softmax, rms_norm, activations, add, and views."""
