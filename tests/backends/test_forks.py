"""A fork of a process where a framework was at work goes on, or says that it cannot; it does not wait for ever."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")

FORKS = """
import os, sys, warnings
import numpy as np
import flashir

warnings.simplefilter("ignore")
target = sys.argv[1]
model = flashir.model("flash", size="tiny", depth=1, chunk=16, cumsum="native")
params = flashir.init(model)
run = flashir.compile(model, target, params)
ids = np.arange(600)[None] % 256
before = run(ids)


def again():
    return run(ids)


def anew():
    return flashir.compile(model, target, params)(ids)


for work in (again, anew):
    child = os.fork()
    if not child:
        try:
            said = "as before" if np.allclose(work(), before, atol=1e-5) else "other numbers"
        except flashir.FlashirError as error:
            said = error.message.splitlines()[0]
        print(said, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print("as before" if np.array_equal(run(ids), before) else "other numbers")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "in_fork"),
    [
        ("onnx:cpu", "as before"),
        ("torch:cpu", "as before"),
        ("jax:cpu", "jax: JAX was initialised before this process was forked, and cannot work in it"),
    ],
)
def test_a_fork(target: str, in_fork: str) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(target[:-4], target[:-4]))
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # threads are the point
    line = (sys.executable, "-c", FORKS, target)
    made = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, env=env)
    assert made.stdout.splitlines() == [in_fork, in_fork, "as before"], made.stderr
