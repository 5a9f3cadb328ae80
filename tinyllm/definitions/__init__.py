"""Ops and their shapes as FlashInfer-Bench writes them, definitions and workloads, for kernels that others write."""
