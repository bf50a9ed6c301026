"""Importers of the models of this family that exist: FLASH-pytorch, GAU-alpha, MossFormer2."""
