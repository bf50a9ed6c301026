"""Processes that are forks of one where JAX is at work: its threads are not in them, so they would wait for ever."""

from __future__ import annotations

import os

from flashir.errors import TargetError

_works = False
_is_fork = False


def works() -> None:
    """JAX is at work in this process from now on. Raises as `check_fork`."""
    global _works
    check_fork()
    _works = True


def check_fork() -> None:
    """Raises TargetError where this process is a fork of one where JAX was at work."""
    if _is_fork:
        raise TargetError(
            "JAX was at work before this process was forked, and cannot go on in it",
            where="jax",
            hint='start processes anew: multiprocessing.get_context("spawn"), or "forkserver"',
        )


def _forked() -> None:
    global _is_fork
    _is_fork = _works


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(after_in_child=_forked)
