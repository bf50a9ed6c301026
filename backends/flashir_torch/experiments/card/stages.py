"""All stages in order: the most important first, and results before times."""

from __future__ import annotations

from flashir_torch.experiments.card import calibration, curves, exactness, launched, products, steps
from flashir_torch.experiments.card.stage import Stage

STAGES = (
    Stage("ceilings", 40, products.measure, products.summary),
    Stage("exact", 120, exactness.measure, exactness.summary, exactness.faults),
    Stage("curves", 120, curves.measure, curves.summary, curves.faults),
    Stage("step", 300, steps.measure, steps.summary),
    Stage("calibration", 60, calibration.measure, calibration.summary),
    Stage("kernels", 90, launched.measure, launched.summary),
    Stage("profile", 60, steps.profile, steps.summary_of_profile),
)
"""Seven files. Their deadlines exceed the budget together, so that one stage may use what another left."""
