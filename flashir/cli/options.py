"""The arguments and options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

MODEL, CHOICES, WORK, DATA, OUTPUT = "Model", "Choices", "Workload", "Parameters and inputs", "Output"


class Policy(StrEnum):
    """The policies for choosing a chunk."""

    QUALITY = "quality"
    FASTEST = "fastest"


class Compute(StrEnum):
    """The compute dtypes."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A built-in model such as flash, a .fir file, a checkpoint or run."),
]
ModelOrExport = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A built-in model, a .fir file, a checkpoint or run, or an exported model.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "-s", "--set", metavar="KEY=VALUE", help="Setting of a built-in model; repeatable.", rich_help_panel=MODEL
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Size of a built-in model: tiny, small, base, large, pg19.", rich_help_panel=MODEL
    ),
]
Task = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Task of a built-in model: lm (causal) or mlm.", rich_help_panel=MODEL),
]

Chunk = Annotated[
    int | None, typer.Option(metavar="N", help="Force the chunk size, in tokens.", rich_help_panel=CHOICES)
]
Cumsum = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Force the running sum of chunk states: scan, matmul or native; in performer over tokens unless "
        "--choose tile=N.",
        rich_help_panel=CHOICES,
    ),
]
Choose = Annotated[
    list[str] | None,
    typer.Option(
        "--choose",
        metavar="NAME=VALUE",
        help="Force any choice of the ops of the model, such as tile=64; repeatable.",
        rich_help_panel=CHOICES,
    ),
]
ComputeType = Annotated[Compute | None, typer.Option("--dtype", help="Compute dtype.", rich_help_panel=CHOICES)]
ComputeTypes = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="Compute dtype: float32, bfloat16 or float16. Of several with commas, or auto for float32 and bfloat16, "
        "the best is taken.",
        rich_help_panel=CHOICES,
    ),
]
_POLICY = typer.Option(
    "--policy", help="Among chunks: the largest within 5% of the fastest, or the fastest.", rich_help_panel=CHOICES
)
ByPolicy = Annotated[Policy, _POLICY]
GivenPolicy = Annotated[Policy | None, _POLICY]
Rechunk = Annotated[
    bool,
    typer.Option(
        "--rechunk",
        help="Let --chunk override the chunk of the parameters, which changes the function of the model.",
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
SeqLen = Annotated[int, typer.Option(metavar="N", help="Tokens per row.", rich_help_panel=WORK)]
Training = Annotated[
    bool, typer.Option("--training", help="A training step instead of a forward pass.", rich_help_panel=WORK)
]

Params = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Parameters: a safetensors file, a checkpoint or a run.  [default: those of MODEL, else random ones]",
        rich_help_panel=DATA,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict/--no-strict",
        help="Reject --params with parameters that the model does not have, or ignore those.",
        rich_help_panel=DATA,
    ),
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Seed of random parameters.  [default: 0]", rich_help_panel=DATA)
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A tokenizer.json.  [default: that of the model, else bytes]",
        rich_help_panel=DATA,
    ),
]
DocumentEnd = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        help="Token after each document, or none.",
        rich_help_panel=DATA,
    ),
]
SpecialTokens = Annotated[
    bool | None,
    typer.Option(
        "--special-tokens/--no-special-tokens",
        help="Read the names of special tokens as tokens.  [default: as in training]",
        rich_help_panel=DATA,
    ),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        metavar="NAME",
        help="Keep this result of the model, by its name; repeatable.  [default: all results]",
        rich_help_panel=MODEL,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.", rich_help_panel=OUTPUT)]
