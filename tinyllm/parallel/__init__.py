"""One model over several processes of a machine: how they start, learn of each step, and wait for one another."""
