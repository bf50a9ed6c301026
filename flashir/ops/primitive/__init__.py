"""Primitive ops: each backend has an emitter for every one of them."""
