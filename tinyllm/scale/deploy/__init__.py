"""Replicas of a model on a Ray cluster, behind one address. Only what runs there imports Ray."""
