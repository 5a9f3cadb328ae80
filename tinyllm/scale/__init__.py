"""More than one process: which replica a request goes to, a proxy before replicas, and a simulator of many."""
