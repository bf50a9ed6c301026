"""Without PyTorch there is nothing here to test. Triton wants to know before it loads that kernels are interpreted."""

from __future__ import annotations

import os
from importlib.util import find_spec

needs = {"torch": ["test_*.py"], "triton": ["test_triton.py", "test_gated.py", "test_machine_code.py"]}
collect_ignore_glob = [file for package, files in needs.items() if not find_spec(package) for file in files]

os.environ["TRITON_INTERPRET"] = "1"
