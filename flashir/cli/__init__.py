"""The command line. `app.py` lists the verbs, one file each; what is slow to import waits until a verb needs it."""

from __future__ import annotations


def main() -> None:
    """The program `flashir`."""
    from flashir.cli.app import app

    app()
