"""`python -m flashir`: the command line."""

from flashir.cli import main

main()
