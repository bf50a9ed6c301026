"""The paper's systems by name, written with the calls that users have: `flashir.model("flash", size="base")`."""

from flashir_zoo.zoo import Zoo

__all__ = ["Zoo"]
