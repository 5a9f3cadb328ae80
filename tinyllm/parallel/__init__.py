"""One model over several processes of this machine: how they are started, told of each step, and wait for one another."""
