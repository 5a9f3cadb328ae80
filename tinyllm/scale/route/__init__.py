"""A proxy before replicas, which sends each request where its prefix is warm."""
