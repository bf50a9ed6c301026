"""The ops. Each op is one record, and each file holds one family of ops. Importing this package defines all ops.

A new file in a folder of this package is imported automatically.
"""

from importlib import import_module
from pkgutil import walk_packages

from flashir.ir.cost import Contraction, Cost
from flashir.ir.op import OPS, AttrSpec, OpDef, ParamSpec, Sample, all_ops, define_op, opdef, sample

for module in walk_packages(__path__, f"{__name__}."):
    import_module(module.name)

__all__ = [
    "OPS",
    "AttrSpec",
    "Contraction",
    "Cost",
    "OpDef",
    "ParamSpec",
    "Sample",
    "all_ops",
    "define_op",
    "opdef",
    "sample",
]
