"""An export in fewer bits is read back by every verb that wants its parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

TINY = ("flash", "--size", "tiny", "--chunk", "16", "-s", "depth=1")


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        ("onnx:cpu", "float16"),
        pytest.param("torch:cpu", "bfloat16", marks=pytest.mark.slow),
        pytest.param("torch:cpu", "float16", marks=pytest.mark.slow),
        pytest.param("jax:cpu", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_an_export_in_fewer_bits_is_verified_and_continued(
    cli: Cli, text: Path, tmp_path: Path, target: str, dtype: str
) -> None:
    out = tmp_path / "out"
    cli.ok("export", *TINY, "--target", target, "--dtype", dtype, "--seed", 4, "-o", out)
    assert cli.json("run", out, "--target", target, "--text", text, "--verify")["ok"]
    wrote = cli.json("generate", out, "--target", target, "--prompt", "The", "--tokens", 3)
    assert len(wrote["results"][0]["tokens"]) == 3
