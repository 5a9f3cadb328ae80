"""Compiles the native library. The standard library alone, as it runs while tinyllm is being installed: there its name
is `builder`, afterwards `tinyllm_native.builder`, so its modules import one another relatively."""
