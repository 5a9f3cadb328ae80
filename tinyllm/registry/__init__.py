"""From an op and a call to the kernel that runs it."""
