"""The passes, each by its name, and pipelines as text."""

from flashir.passes.base import Pass, PassResult, Pipeline, Timing
from flashir.passes.named import PASSES, parse_pipeline

__all__ = ["PASSES", "Pass", "PassResult", "Pipeline", "Timing", "parse_pipeline"]
