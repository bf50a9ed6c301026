"""Experiments behind the results of this backend."""
