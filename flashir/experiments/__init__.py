"""Experiments behind the results of this project. `python -m flashir.experiments` lists them."""
