"""Rewriting: rules that a builder applies as it inserts, and sizes that take the place of symbols."""

from flashir.rewrite.driver import RewritingBuilder, Rule, rewrite
from flashir.rewrite.sizes import bind_sizes, check_sizes, specialise

__all__ = ["RewritingBuilder", "Rule", "bind_sizes", "check_sizes", "rewrite", "specialise"]
