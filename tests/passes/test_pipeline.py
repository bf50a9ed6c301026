"""The Pipeline's instruments: it verifies, times, prints, dumps and counts fuel, so that no pass does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from flashir import Builder, FlashirError, Graph, dumps, loads
from flashir.backends.lowering import Lowering
from flashir.transforms import PASSES, Pass, Pipeline, parse_pipeline
from flashir.transforms.canonicalise import Canonicalise
from flashir.transforms.lower import Decompose
from flashir.transforms.set_dtype import SetDType
from flashir.transforms.settle_choices import choose_passes


@dataclass(frozen=True)
class Append(Pass):
    """`return %x` -> `%y = op(%x); return %y`"""

    name = "append"
    op: str = "relu"
    times: int = 1
    strict: bool = False

    def apply(self, graph: Graph) -> Graph:
        b = Builder(graph.name)
        x = b.input("x", graph.inputs[0].type)
        for each in (*(node.op for node in graph.nodes), *[self.op] * self.times):
            x = b.insert(each, (x,))[0]
        return b.finish(x)


@dataclass(frozen=True)
class Nothing(Pass):
    """Leaves everything as it is."""

    name = "nothing"

    def apply(self, graph: Graph) -> Graph:
        return graph


@dataclass(frozen=True)
class Needed(Append):
    """A pass that may not be skipped."""

    name = "needed"
    optional = False


@dataclass(frozen=True)
class Miscompile(Pass):
    """Makes an invalid graph."""

    name = "miscompile"
    harm: str = "all"

    def apply(self, graph: Graph) -> Graph:
        return replace(graph, nodes=graph.nodes[1:])


def start() -> Graph:
    b = Builder("m")
    return b.finish(b.relu(b.input("x", "f32[4]")))


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def test_passes_run_in_order() -> None:
    assert ops(Pipeline((Append("sin"), Append("cos"))).run(start())) == ["relu", "sin", "cos"]


def test_each_pass_is_timed_and_says_whether_it_changed_anything() -> None:
    pipeline = Pipeline((Append("sin"), Nothing()))
    pipeline.run(start())
    assert [(each.name, each.modified) for each in pipeline.timings] == [("append", True), ("nothing", False)]
    assert all(each.seconds >= 0 for each in pipeline.timings)


def test_the_pass_that_makes_an_invalid_graph_is_named_with_its_options() -> None:
    with pytest.raises(FlashirError, match=r"after the pass miscompile\{harm=much\}.*\n?") as refused:
        Pipeline((Append("sin"), Miscompile("much"), Append("cos"))).run(start())
    assert "bug in the pass" in refused.value.message


def test_what_comes_in_is_verified_first() -> None:
    broken = Miscompile().apply(start())
    with pytest.raises(FlashirError) as refused:
        Pipeline((Nothing(),)).run(broken)
    assert "after the pass" not in refused.value.message


def test_verification_can_be_left_out() -> None:
    assert not Pipeline((Miscompile(),), check=False).run(start()).nodes


def test_dumps_are_numbered_named_and_readable(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "ir"
    graph = Pipeline((Append("sin"), Nothing()), dump_dir=folder).run(start())
    assert sorted(file.name for file in folder.iterdir()) == ["000-input.fir", "001-append.fir", "002-nothing.fir"]
    assert loads((folder / "000-input.fir").read_text()) == start()
    assert loads((folder / "002-nothing.fir").read_text()) == graph


def test_dumps_of_an_earlier_run_are_removed_and_other_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "notes.fir").touch()
    Pipeline((Append("sin"), Nothing(), Nothing()), dump_dir=tmp_path).run(start())
    Pipeline((Nothing(),), dump_dir=tmp_path).run(start())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["000-input.fir", "001-nothing.fir", "notes.fir"]


def test_graphs_are_shown_after_the_passes_asked_for() -> None:
    shown: list[str] = []
    passes = (Append("sin"), Nothing())
    graph = Pipeline(passes, print_after=("append",), show=shown.append).run(start())
    assert shown == [f"// after append\n{dumps(graph, types=True)}"]
    assert loads(shown[0]) == graph


def test_all_shows_every_graph() -> None:
    shown: list[str] = []
    Pipeline((Append("sin"), Nothing()), print_after=("all",), show=shown.append).run(start())
    assert [text.split("\n")[0] for text in shown] == ["// after input", "// after append", "// after nothing"]


def test_nothing_is_shown_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    Pipeline((Append("sin"),)).run(start())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fuel", "ran"),
    [(0, ["relu", "exp"]), (1, ["relu", "sin", "exp"]), (2, ["relu", "sin", "exp", "cos"]), (9, None), (None, None)],
)
def test_fuel_counts_the_passes_that_may_be_skipped(fuel: int | None, ran: list[str] | None) -> None:
    passes = (Append("sin"), Needed("exp"), Append("cos"), Append("tanh"))
    assert ops(Pipeline(passes, fuel=fuel).run(start())) == (ran or ["relu", "sin", "exp", "cos", "tanh"])


def test_fuel_finds_the_pass_that_miscompiles() -> None:
    """The least fuel with which the result is wrong is the number of the guilty pass."""
    passes = (Append("sin"), Append("cos"), Append("neg"), Append("tanh"))
    guilty = next(n for n in range(5) if "neg" in ops(Pipeline(passes, fuel=n).run(start())))
    assert passes[guilty - 1] == Append("neg")


def test_a_pipeline_runs_twice_the_same() -> None:
    pipeline = Pipeline((Append("sin"),), fuel=1)
    assert pipeline.run(start()) == pipeline.run(start())


def test_every_pass_of_the_lowering_without_which_it_would_be_wrong_says_so() -> None:
    graph = loads("""
    model @m(%ids: i32[B, T]) {
      %x = embed(%ids) {vocab = 5, dim = 4}
      %y = flash(%x) {chunk = 2, key_dim = 2, cumsum = "scan"}
      %z = unembed(%y)
      return %z
    }
    """)
    needed = Pipeline(Lowering("primitives").passes(), fuel=0).run(graph)
    assert "flash" not in ops(needed)


# the text of passes and pipelines


def test_a_pass_prints_its_options_that_differ_from_the_defaults() -> None:
    assert str(Append()) == "append"
    assert str(Append("sin", times=2, strict=True)) == "append{op=sin times=2 strict=true}"
    assert str(Decompose(("einsum", "dense"))) == "decompose{ops=einsum,dense}"


def test_every_pass_is_in_the_table_under_its_name() -> None:
    ours = {each for each in everything_below(Pass) if each.__module__.startswith("flashir.")}
    ours = {each for each in ours if not each.__name__.startswith("_")}
    ours = {each for each in ours if each.name in PASSES or not each.name.startswith("choose-")}  # of ops of tests
    assert set(PASSES.values()) == ours
    assert all(each.name == name for name, each in PASSES.items())


def test_a_pass_is_named_as_its_class_and_as_its_file_if_it_has_one_alone() -> None:
    plain = [kind for name, kind in PASSES.items() if not name.startswith("choose-")]
    assert [kind.__name__.lower() for kind in plain] == [kind.name.replace("-", "") for kind in plain]
    files = Counter(kind.__module__ for kind in plain)
    alone = [kind for kind in plain if files[kind.__module__] == 1]
    assert [kind.__module__.rpartition(".")[2] for kind in alone] == [kind.name.replace("-", "_") for kind in alone]


def everything_below(kind: type[Pass]) -> set[type[Pass]]:
    return {each for child in kind.__subclasses__() for each in (child, *everything_below(child))}


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_is_read_by_its_name(name: str) -> None:
    assert parse_pipeline(name) == (PASSES[name](),)


@pytest.mark.parametrize(
    "passes",
    [
        (),
        (Canonicalise(),),
        (choose_passes()["choose-chunk"](chunk=256), Canonicalise()),
        (Decompose(("einsum", "dense")), SetDType("bfloat16"), Decompose(("flash",))),
    ],
)
def test_the_text_of_a_pipeline_reads_back(passes: tuple[Pass, ...]) -> None:
    assert parse_pipeline(",".join(map(str, passes))) == passes
    assert parse_pipeline(" , ".join(map(str, passes)) + " ") == passes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("canonicalize", "unknown pass 'canonicalize'; did you mean 'canonicalise'"),
        ("pad,,lower", "passes must look like .*, got ',lower'"),
        ("lower{", "must look like"),
        ("lower}", "must look like"),
        ("choose-chunk{chunk=x}", "chunk of choose-chunk must be int | None, got 'x'"),
        ("choose-chunk{chnk=2}", "no option 'chnk'; did you mean 'chunk'"),
        ("choose-chunk{rank=2}", "no option 'rank'"),
        ("decompose{ops}", "options of decompose must look like 'name=value', got 'ops'"),
    ],
)
def test_text_that_names_no_pipeline_is_refused(text: str, problem: str) -> None:
    with pytest.raises(FlashirError, match=problem):
        parse_pipeline(text)
