"""Backends: their protocols, how they are found, and how a graph is lowered for them."""
