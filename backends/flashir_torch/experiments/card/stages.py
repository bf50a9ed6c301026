"""All stages in order: the most important first, and results before times."""

from __future__ import annotations

from flashir_torch.experiments.card import calibration, curves, exactness, launched, products, steps
from flashir_torch.experiments.card.stage import Stage

STAGES = (
    Stage("ceilings", 40, products.measure, products.told),
    Stage("exact", 120, exactness.measure, exactness.told, exactness.faults),
    Stage("curves", 120, curves.measure, curves.told, curves.faults),
    Stage("step", 300, steps.measure, steps.told),
    Stage("calibration", 60, calibration.measure, calibration.told),
    Stage("kernels", 90, launched.measure, launched.told),
    Stage("profile", 60, steps.profile, steps.told_of_profile),
)
"""Seven files. Their deadlines exceed the budget together, so that one stage may use what another left."""
