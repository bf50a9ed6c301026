"""Graph transformations: the rewriter, the passes by name, and pipelines of passes as text."""

from flashir.transforms.pipeline import Pass, PassResult, Pipeline, Timing
from flashir.transforms.registry import PASSES, parse_pipeline
from flashir.transforms.rewriter import RewritingBuilder, Rule, rewrite
from flashir.transforms.sizes import bind_sizes, check_sizes, specialise

__all__ = [
    "PASSES",
    "Pass",
    "PassResult",
    "Pipeline",
    "RewritingBuilder",
    "Rule",
    "Timing",
    "bind_sizes",
    "check_sizes",
    "parse_pipeline",
    "rewrite",
    "specialise",
]
