"""Kernels for TPUs, each one entry in the table and a condition in the claims."""
