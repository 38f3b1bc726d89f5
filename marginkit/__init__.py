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
    from marginkit.margins import METHODS
    from marginkit.margins.crown import Crown
    from marginkit.margins.deepfool import DeepFool
    from marginkit.margins.exact import Exact
    from marginkit.margins.first_order import FirstOrder
    from marginkit.margins.fixed_radius import BIM, FGSM, FixedPGD
    from marginkit.margins.lipschitz import Lipschitz
    from marginkit.margins.nearest import Nearest
    from marginkit.margins.peers import TorchAttack
    from marginkit.margins.pgd import PGD
    from marginkit.margins.smoothing import Smoothing
    from marginkit.norms import L1, L2, LINF, NORMS
    from marginkit.recipe import Recipe
    from marginkit.table import MarginTable
    from marginkit.table import read as load
    from marginkit.table import write as save
    from marginkit.training import train
    from marginkit.types import Bracket, Estimate, Threat

_HOMES = {
    "errors": ("MarginkitError",),
    "kinds": ("Kind", "Status"),
    "losses": ("LOSSES", "CrossEntropy", "Hinge", "LargeMargin"),
    "losses.large_margin": ("large_margin",),
    "margins": (
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
    "margins.peers": ("TorchAttack",),
    "norms": ("L1", "L2", "LINF", "NORMS"),
    "table": ("MarginTable", "load", "save"),
    "recipe": ("Recipe",),
    "training": ("train",),
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
