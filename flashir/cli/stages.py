"""A model at every level: as written, its blocks opened once, down to primitives, and lowered for a target."""

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
    "blocks": "the model as it is written",
    "attention": "every block opened once: attention, projections, norms",
    "primitives": "down to the ops that are made of no others",
    "lowered": "what the target is given",
}


@dataclass(frozen=True)
class Stages:
    """The stages of one model.

    Args:
        model: at the level of blocks.
        settled: the same with every choice made.
        target: for `lowered`.
        print_after, dump_ir, fuel: instruments of the pipeline; see `Pipeline`.
    """

    model: Graph
    settled: Graph
    target: str
    print_after: tuple[str, ...] = ()
    dump_ir: Path | None = None
    fuel: int | None = None

    @cached_property
    def printed(self) -> list[str]:
        """What `print_after` gave."""
        return []

    def at(self, stage: str) -> Graph:
        """The model at a stage. Raises SettingError where there is no such stage, or no pass to print after."""
        check_stage(stage)
        if stage == "blocks":
            return self.model
        passes = self._passes(stage)
        names = [each.name for each in passes]
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
    """Raises SettingError where there is no such stage."""
    if stage not in STAGES:
        raise SettingError(f"unknown stage {stage!r}{suggest(stage, STAGES)}")


def no_block(node: Node) -> bool:
    """Claims every op that owns no parameters, and `param` itself: what is left of blocks once they are opened."""
    return OPS[node.op].params is None or node.op == "param"


def stages(model: Graph, target: str, instruments: dict[str, Any], batch: int, seq_len: int) -> Stages:
    """The stages of a model; what it leaves open is planned for the target."""
    settled = model
    if has_open(model):
        from flashir.planning.plan import plan

        settled = plan(model, target, batch, seq_len).graph
    return replace(Stages(model, settled, target), **instruments)
