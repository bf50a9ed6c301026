"""Attention: quadratic, linear, and by chunks."""
