"""What is checked, an aspect a module. Each gives `Check`s for a `Trial`: an op on a backend."""
