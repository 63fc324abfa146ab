"""A look inside: prompts by hand, answered by a device and an edge as in a run, while somebody watches."""
