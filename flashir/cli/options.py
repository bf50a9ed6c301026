"""The arguments and options that verbs share, each declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

MODEL, CHOICES, WORK, DATA, OUTPUT = "Model", "Choices", "Workload", "Parameters and inputs", "Output"


class Policy(StrEnum):
    """How to choose among chunks."""

    QUALITY = "quality"
    FASTEST = "fastest"


class Compute(StrEnum):
    """The compute types."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A zoo name such as flash, a .fir file, a checkpoint or run."),
]
ModelOrExport = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A zoo name, a .fir file, a checkpoint or run, or what `flashir export` wrote.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "-s", "--set", metavar="KEY=VALUE", help="Set something of a zoo model; repeat for more.", rich_help_panel=MODEL
    ),
]
Size = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Size of a zoo model: tiny, small, base, large, pg19.", rich_help_panel=MODEL),
]
Task = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Task of a zoo model: lm (causal) or mlm.", rich_help_panel=MODEL),
]

Chunk = Annotated[
    int | None, typer.Option(metavar="N", help="Force the chunk size, in tokens.", rich_help_panel=CHOICES)
]
Cumsum = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Force how chunk states are summed up: scan, matmul or native; in performer, those of tokens unless "
        "--choose tile=N.",
        rich_help_panel=CHOICES,
    ),
]
Choose = Annotated[
    list[str] | None,
    typer.Option(
        "--choose",
        metavar="NAME=VALUE",
        help="Force any choice that the ops of the model have, such as tile=64; repeat for more.",
        rich_help_panel=CHOICES,
    ),
]
ComputeType = Annotated[Compute | None, typer.Option("--dtype", help="The compute type.", rich_help_panel=CHOICES)]
_POLICY = typer.Option(
    "--policy", help="Among chunks: the largest within 5% of the fastest, or the fastest.", rich_help_panel=CHOICES
)
ByPolicy = Annotated[Policy, _POLICY]
GivenPolicy = Annotated[Policy | None, _POLICY]
Rechunk = Annotated[
    bool,
    typer.Option(
        "--rechunk",
        help="Let --chunk override the chunk that the parameters were made for; that changes what the model computes.",
        rich_help_panel=CHOICES,
    ),
]

Target = Annotated[
    str,
    typer.Option(
        metavar="BACKEND:DEVICE", help="Such as onnx:cpu or jax:tpu-v4x32; see `flashir targets`.", rich_help_panel=WORK
    ),
]
Batch = Annotated[int, typer.Option(metavar="N", help="Rows, over all devices.", rich_help_panel=WORK)]
SeqLen = Annotated[int, typer.Option(metavar="N", help="Tokens a row.", rich_help_panel=WORK)]
Training = Annotated[
    bool, typer.Option("--training", help="A training step instead of one run forward.", rich_help_panel=WORK)
]

Params = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="The parameters: a safetensors file, a checkpoint or a run. Without: those of MODEL, else fresh ones.",
        rich_help_panel=DATA,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict/--no-strict",
        help="Whether --params with more than the model has are refused; else what is more is left out.",
        rich_help_panel=DATA,
    ),
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Seed of fresh parameters.  [default: 0]", rich_help_panel=DATA)
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The tokenizer.json of the model.  [default: the one it brings, else bytes]",
        rich_help_panel=DATA,
    ),
]
DocumentEnd = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        help="The token that each document ends with, or none.",
        rich_help_panel=DATA,
    ),
]
SpecialTokens = Annotated[
    bool | None,
    typer.Option(
        "--special-tokens/--no-special-tokens",
        help="Read a special token where a text names one.  [default: as in training]",
        rich_help_panel=DATA,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON value for machines, and nothing else.", rich_help_panel=OUTPUT)
]
