"""Layers that own parameters: embeddings, gated units, attention with heads, feed-forward."""
