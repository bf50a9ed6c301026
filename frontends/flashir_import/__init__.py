"""Importers: models of FLASH-pytorch, GAU-alpha and MossFormer2, and artefacts of `flashir export`."""
