"""The version of flashir; `pyproject.toml` reads it here."""

__version__ = "1.0.0"
