"""The systems of the paper by name, built with the public API: `flashir.model("flash", size="base")`."""

from flashir_zoo.zoo import Zoo

__all__ = ["Zoo"]
