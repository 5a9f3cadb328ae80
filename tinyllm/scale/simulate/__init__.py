"""Many replicas in virtual time: the real scheduler, page pool and policy, and a table instead of a model."""
