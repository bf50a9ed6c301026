"""Experiments: what this project's own results are made with. `python -m flashir.experiments` lists them."""
