"""Run stages in processes of their own, so that a hang or a fault of one is no fault of the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from flashir_torch.experiments.card.setting import Setting
from flashir_torch.experiments.card.stage import COMPLETE, Stage

LEAST_S = 15.0
"""A process that has less time than this has only started when it ends."""

LAST_WORDS = 2000

Perform = Callable[[Stage, Setting, Path, float], str]
"""A stage, its setting, a folder, and its seconds -> why it did not end well; empty if it did."""


def run(
    stages: Sequence[Stage], setting: Setting, out: Path, budget: float, perform: Perform, tell: Callable[[str], None]
) -> list[str]:
    """Perform all stages that are not complete in a folder, in order, within so many seconds.

    Returns everything that is missing or wrong. Raises ArtefactError if a file is damaged or of another setting.
    """
    end, problems = monotonic() + budget, list[str]()
    for stage in stages:
        stage.kept(setting, out)
    for stage in stages:
        left = end - monotonic()
        document = stage.kept(setting, out)
        why = "" if document.get(COMPLETE) else "no time is left"
        tell(f"{stage.name}{': read back' if not why else ''}")
        if why and left >= LEAST_S:
            why = perform(stage, setting, out, min(stage.seconds, left))
            document = stage.kept(setting, out)
            why = "" if document.get(COMPLETE) else why or "it ended without a word"
        problems += [f"{stage.name}: {why}"] if why else []
        if document:
            for line in stage.summary(document):
                tell(f"  {line}")
            problems += [f"{stage.name}: {fault}" for fault in stage.faults(document)]
    return problems


def in_process(stage: Stage, setting: Setting, out: Path, seconds: float) -> str:
    """Perform a stage in a new process, which is ended at its deadline; what it kept stays."""
    command = [sys.executable, "-m", __package__, "--out", str(out), "--stage", stage.name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if setting.is_rehearsal:
        command.append("--rehearse")
        environment["TRITON_INTERPRET"] = "1"
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True, start_new_session=True
    )
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"it took longer than {seconds:.0f} s"
    finally:  # an interrupt too
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its compilers too
            process.communicate()
    if process.returncode:
        lines = [line for line in errors[-LAST_WORDS:].splitlines() if line.strip()]
        return lines[-1] if lines else f"its process ended with code {process.returncode}"
    return ""
