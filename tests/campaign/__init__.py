"""A campaign that hunts for faults: `python -m tests.campaign --help`.

Each case is determined by its kind, the seed and its number, and runs in a worker process that may crash or hang.
"""
