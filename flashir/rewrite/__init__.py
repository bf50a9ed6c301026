"""Rewriting: rules that a builder applies as it inserts."""

from flashir.rewrite.driver import RewritingBuilder, Rule, rewrite

__all__ = ["RewritingBuilder", "Rule", "rewrite"]
