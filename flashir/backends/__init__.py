"""Backends: what one must and may provide, how it is found, how a graph is lowered for it."""
