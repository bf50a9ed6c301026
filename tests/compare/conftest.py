"""A cache of its own for every test, and a little text, as for the tests of training."""

from tests.train.conftest import _own_cache, text

__all__ = ["_own_cache", "text"]
