"""Ops between the processes that share one model out."""
