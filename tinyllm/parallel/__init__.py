"""One model over several processes, of one machine or more: how they start, learn of steps, and wait for another."""
