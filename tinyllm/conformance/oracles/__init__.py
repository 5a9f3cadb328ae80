"""The judge that the kit brings itself: ONNX's own node cases, from a package that need not be there. Plugins bring
others."""
