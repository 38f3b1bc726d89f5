"""How far is each input from the decision boundary?

Names are imported when first used, so that reading and comparing tables loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marginkit.errors import MarginkitError
    from marginkit.kinds import Kind, Status
    from marginkit.losses import LOSSES
    from marginkit.losses.cross_entropy import CrossEntropy
    from marginkit.losses.hinge import Hinge
    from marginkit.losses.large_margin import LargeMargin, large_margin
    from marginkit.methods import METHODS
    from marginkit.methods.crown import Crown
    from marginkit.methods.deepfool import DeepFool
    from marginkit.methods.exact import Exact
    from marginkit.methods.first_order import FirstOrder
    from marginkit.methods.fixed_radius import BIM, FGSM, FixedPGD
    from marginkit.methods.lipschitz import Lipschitz
    from marginkit.methods.nearest import Nearest
    from marginkit.methods.pgd import PGD
    from marginkit.methods.smoothing import Smoothing
    from marginkit.methods.torchattacks import TorchAttack
    from marginkit.norms import L1, L2, LINF, NORMS
    from marginkit.table.reading import read as load
    from marginkit.table.table import MarginTable
    from marginkit.table.writing import write as save
    from marginkit.training.loop import train
    from marginkit.training.recipe import Recipe
    from marginkit.types import Bracket, Estimate, Threat

_HOMES = {
    "errors": ("MarginkitError",),
    "kinds": ("Kind", "Status"),
    "losses": ("LOSSES", "CrossEntropy", "Hinge", "LargeMargin"),
    "losses.large_margin": ("large_margin",),
    "methods": (
        "METHODS",
        "BIM",
        "FGSM",
        "PGD",
        "Crown",
        "DeepFool",
        "Exact",
        "FirstOrder",
        "FixedPGD",
        "Lipschitz",
        "Nearest",
        "Smoothing",
    ),
    "methods.torchattacks": ("TorchAttack",),
    "norms": ("L1", "L2", "LINF", "NORMS"),
    "table.reading": ("load",),
    "table.table": ("MarginTable",),
    "table.writing": ("save",),
    "training.loop": ("train",),
    "training.recipe": ("Recipe",),
    "types": ("Bracket", "Estimate", "Threat"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_IN_ITS_HOME = {"load": "read", "save": "write"}

__all__ = [
    "BIM",
    "FGSM",
    "L1",
    "L2",
    "LINF",
    "LOSSES",
    "METHODS",
    "NORMS",
    "PGD",
    "Bracket",
    "CrossEntropy",
    "Crown",
    "DeepFool",
    "Estimate",
    "Exact",
    "FirstOrder",
    "FixedPGD",
    "Hinge",
    "Kind",
    "LargeMargin",
    "Lipschitz",
    "MarginTable",
    "MarginkitError",
    "Nearest",
    "Recipe",
    "Smoothing",
    "Status",
    "Threat",
    "TorchAttack",
    "large_margin",
    "load",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'marginkit' has no attribute {name!r}")
    return getattr(import_module(f"marginkit.{_HOME[name]}"), _IN_ITS_HOME.get(name, name))
