"""What data cost is measured for every stage, of the text that is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashir.experiments.data_speed import Stage, main, measure


@pytest.mark.parametrize("bpe", [None, 260])
def test_every_stage_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bpe: int | None) -> None:
    monkeypatch.setattr("flashir.experiments.data_speed.ROUNDS", 3)
    (tmp_path / "a.txt").write_text("one two three " * 50)
    stages: list[Stage] = []
    corpus = measure([str(tmp_path)], bpe, 2, 8, stages.append)
    assert len(corpus) == 700 if bpe is None else len(corpus) < 700
    assert [stage.name for stage in stages[:4]] == ["check", "tokenizer", "tokenise", "find again"]
    assert [stage.name for stage in stages[4:]] == ["a batch, lm", "a batch, lm, segments", "a batch, mlm"]
    assert all(stage.seconds > 0 for stage in stages)


def test_the_command_line_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("one two three " * 50)
    main([str(tmp_path), "--rows", "1", "--seq-len", "4"])
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 8
    assert shown[-1] == "700 tokens in 1 documents"
