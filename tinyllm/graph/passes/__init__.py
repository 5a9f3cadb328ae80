"""Passes over a graph: each gives a graph that computes the same with fewer calls."""
