"""What limits a displacement beside norm and box: frozen features, a linear subspace, a grid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.data.dataset import Data
from marginkit.errors import MarginkitError, UsageError
from marginkit.files.npy import read_npy
from marginkit.files.untrusted import printable
from marginkit.kinds import INPUT, Kind
from marginkit.methods.first_order import FirstOrder
from marginkit.methods.search.views import View, at_input, at_layer, in_subspace, principal_directions
from marginkit.norms import Vectors
from marginkit.types import Bracket, Estimate, Method, Threat

PCA_SAMPLES = 5000  # samples that principal directions are computed from


@dataclass(frozen=True)
class Limits:
    """Holds for every column of a table.

    Attributes:
        mask: True where a feature may change.
        subspace: orthonormal directions that displacements are made of.
        levels: grid steps from the box's low end to its high end.
    """

    mask: Tensor | None = None
    subspace: Float[Tensor, "k *d"] | None = None
    levels: int | None = None

    def __post_init__(self) -> None:
        """Refuses what can't hold together."""
        if self.subspace is not None and (self.mask is not None or self.levels is not None):
            raise UsageError(
                "a subspace goes with neither a mask nor a grid: a displacement can't keep to both"
            )

    def describe(self) -> dict[str, Any]:
        """For a table's provenance; two tables are comparable where it is the same."""
        found: dict[str, Any] = {}
        if self.mask is not None:
            found["mask"] = {
                "free": int(self.mask.sum()),
                "sha256": _tensor_digest(self.mask.to(torch.uint8)),
            }
        if self.subspace is not None:
            found["subspace"] = {
                "directions": len(self.subspace),
                "sha256": _tensor_digest(self.subspace.float()),
            }
        if self.levels is not None:
            found["levels"] = self.levels
        return found

    def view(self, model: nn.Module, x: Vectors, threat: Threat, layer: str, method: Method) -> View:
        """What a method is to be called with; proofs hold for all displacements, so also for these."""
        if layer != INPUT:
            return at_layer(model, x, threat, layer)
        if self.subspace is None or method.kind not in (Kind.ESTIMATE, Kind.UPPER):
            return at_input(model, x, threat)
        return in_subspace(model, x, threat, self.subspace)


FREE = Limits()


def at_the_input(method: Method, limits: Limits) -> Callable[..., Bracket | Estimate]:
    """In a subspace `first_order` has no hidden layers: they see no subspace."""
    if limits.subspace is not None and isinstance(method, FirstOrder):
        return replace(method, layers=(INPUT,))
    return method


def read_mask(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Frozen features from a .npy file: an array that broadcasts to one sample, true where it may change."""
    try:
        array = read_npy(path)
        mask = np.broadcast_to(array, shape)
    except Exception as error:  # NumPy parses a header's text as Python, which fails in many ways
        reason = printable(str(error).partition("\n")[0])
        raise MarginkitError(f"{path} is no mask for inputs of shape {list(shape)}: {reason}") from error
    if array.dtype.kind not in "bui":
        raise MarginkitError(f"{path} has {array.dtype}; expected true or 1 where a feature may change")
    if not mask.any():
        raise MarginkitError(f"{path} lets no feature change: set true or 1 where one may")
    return torch.from_numpy(mask.astype(bool))


def principal_subspace(data: Data, count: int) -> Float[Tensor, "k *d"]:
    """The top principal directions of (the first `PCA_SAMPLES` samples of) a data set."""
    return principal_directions(data.inputs(list(range(min(len(data), PCA_SAMPLES)))), count)


def _tensor_digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
