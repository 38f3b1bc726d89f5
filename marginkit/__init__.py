"""How far is each input from the decision boundary?

Names are imported when first used, so that reading and comparing tables loads no torch. `__init__.pyi` tells
them to type checkers and editors.
"""

from importlib import import_module
from typing import Any

# Public name -> its module, and what it is called there where that is something else.
HOMES = {
    "ARCHITECTURES": "models.architectures",
    "BIM": "methods.fixed_radius",
    "DATASETS": "data.sources",
    "FGSM": "methods.fixed_radius",
    "L1": "norms",
    "L2": "norms",
    "LINF": "norms",
    "LOSSES": "losses",
    "METHODS": "methods",
    "NORMS": "norms",
    "PGD": "methods.pgd",
    "Adversarial": "losses.adversarial",
    "Bracket": "types",
    "Certified": "losses.certified",
    "CertifiedMargin": "losses.certified_margin",
    "CrossEntropy": "losses.cross_entropy",
    "Crown": "methods.crown",
    "DeepFool": "methods.deepfool",
    "Estimate": "types",
    "Exact": "methods.exact",
    "FirstOrder": "methods.first_order",
    "FixedPGD": "methods.fixed_radius",
    "GradientPenalty": "losses.gradient_penalty",
    "Hinge": "losses.hinge",
    "Kind": "kinds",
    "LargeMargin": "losses.large_margin",
    "Lipschitz": "methods.lipschitz",
    "LipschitzMargin": "losses.lipschitz_margin",
    "MarginTable": "table.table",
    "MarginkitError": "errors",
    "MaxMargin": "losses.mma",
    "Nearest": "methods.nearest",
    "Recipe": "training.recipe",
    "Smoothing": "methods.smoothing",
    "Status": "kinds",
    "Threat": "types",
    "TorchAttack": "methods.torchattacks",
    "Trades": "losses.trades",
    "Verify": "methods.verify",
    "compare": "comparison.compare",
    "large_margin": "losses.large_margin",
    "load": "table.reading:read",
    "load_checkpoint": "models.checkpoint:load",
    "load_dataset": "data.sources:load",
    "measure": "measurement.measure",
    "measure_file": "measurement.measure",
    "read_table": "table.reading:read",
    "save": "table.writing:write",
    "tighten": "measurement.tighten",
    "train": "training.loop",
    "write_table": "table.writing:write",
}

__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'marginkit' has no attribute {name!r}")
    module, _, there = HOMES[name].partition(":")
    return getattr(import_module(f"marginkit.{module}"), there or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
