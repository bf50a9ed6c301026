"""Detect forks of a process in which JAX was initialised. They lack its threads, so JAX would hang."""

from __future__ import annotations

import os

from flashir.errors import TargetError

_works = False
_is_fork = False


def works() -> None:
    """Record that JAX is initialised in this process. Raises the errors of `check_fork`."""
    global _works
    check_fork()
    _works = True


def check_fork() -> None:
    """Raise TargetError if this process is a fork of one in which JAX was initialised."""
    if _is_fork:
        raise TargetError(
            "JAX was initialised before this process was forked, and cannot work in it",
            where="jax",
            hint='start processes with multiprocessing.get_context("spawn"), or "forkserver"',
        )


def _forked() -> None:
    global _is_fork
    _is_fork = _works


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(after_in_child=_forked)
