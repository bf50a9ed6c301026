"""A model at every level: as written, with blocks decomposed once, as primitives, and lowered for a target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from flashir.backends.lowering import Lowering
from flashir.errors import SettingError, suggest
from flashir.ir import Graph, Node
from flashir.ops import OPS
from flashir.transforms.canonicalise import Canonicalise
from flashir.transforms.lower import Lower
from flashir.transforms.name_parameters import NameParameters
from flashir.transforms.pipeline import Pass, Pipeline
from flashir.transforms.settle_choices import has_open

STAGES = {
    "blocks": "the model as written",
    "attention": "blocks decomposed once: attention, projections, norms",
    "primitives": "only ops without a decomposition",
    "lowered": "the graph that the target runs",
}


@dataclass(frozen=True)
class Stages:
    """The stages of one model.

    Args:
        model: the model as written.
        settled: the model with every choice settled.
        target: the target of the stage `lowered`.
        print_after, dump_ir, fuel: options of the pipeline; see `Pipeline`.
    """

    model: Graph
    settled: Graph
    target: str
    print_after: tuple[str, ...] = ()
    dump_ir: Path | None = None
    fuel: int | None = None

    @cached_property
    def printed(self) -> list[str]:
        """The texts printed by `print_after`."""
        return []

    def at(self, stage: str) -> Graph:
        """The model at a stage. Raises SettingError for an unknown stage, or an unknown pass in `print_after`."""
        check_stage(stage)
        if stage == "blocks":
            return self.model
        passes = self._passes(stage)
        names = [step.name for step in passes]
        unknown = [name for name in self.print_after if name not in (*names, "all", "input")]
        if unknown:
            raise SettingError([f"no pass {name!r} runs for {stage}{suggest(name, names)}" for name in unknown])
        pipeline = Pipeline(
            passes, dump_dir=self.dump_ir, print_after=self.print_after, show=self.printed.append, fuel=self.fuel
        )
        return pipeline.run(self.settled)

    def _passes(self, stage: str) -> tuple[Pass, ...]:
        if stage == "attention":
            return (NameParameters(), Lower("attention", claims=no_block), Canonicalise())
        return Lowering("primitives").passes() if stage == "primitives" else Lowering.of(self.target).passes()


def check_stage(stage: str) -> None:
    """Raises SettingError for an unknown stage."""
    if stage not in STAGES:
        raise SettingError(f"unknown stage {stage!r}{suggest(stage, STAGES)}")


def no_block(node: Node) -> bool:
    """Claim every op that owns no parameters, and `param` itself: the ops in the decompositions of blocks."""
    return OPS[node.op].params is None or node.op == "param"


def stages(model: Graph, target: str, instruments: dict[str, Any], batch: int, seq_len: int) -> Stages:
    """The stages of a model. Open choices are planned for the target."""
    settled = model
    if has_open(model):
        from flashir.planning.plan import plan

        settled = plan(model, target, batch, seq_len).graph
    return replace(Stages(model, settled, target), **instruments)
