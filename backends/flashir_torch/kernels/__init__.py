"""Kernels in Triton: what a CUDA card runs instead of an op's parts. Nothing here is imported before it is needed."""
