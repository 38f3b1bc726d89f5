"""The classifier seen from elsewhere: from a hidden layer, or from a linear subspace of its inputs.

A view is a model of vectors [moving part, the sample's own input]. The second part is frozen by the threat's
mask and has no gradient, so that any method can search in the first, in any batch, without knowing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import capture, evaluating
from marginkit.errors import MarginkitError, UsageError
from marginkit.guard.answer import answer, original
from marginkit.guard.precision import precise
from marginkit.kinds import INPUT
from marginkit.norms import L2, Vectors
from marginkit.types import Threat


@dataclass(frozen=True)
class View:
    """What a method is called with in place of (model, x, threat).

    Attributes:
        model, x, threat: as any method takes them.
        restore: witnesses of the view -> the model's own inputs; None where there are none such.
    """

    model: nn.Module
    x: Tensor
    threat: Threat
    restore: Callable[[Tensor], Tensor] | None


def at_input(model: nn.Module, x: Vectors, threat: Threat) -> View:
    """The model as it is."""
    return View(model, x, threat, lambda witness: witness)


def at_layer(model: nn.Module, x: Vectors, threat: Threat, layer: str) -> View:
    """The model as h -> f(x; h_layer := h): distances at a hidden layer, in its own units, without a box.

    What the network computes from x beside that layer (skip connections) stays as it is.
    """
    if layer == INPUT:
        return at_input(model, x, threat)
    with evaluating(model), torch.no_grad():
        better = precise(original(model), x)
        model, x = better.model, better.x
        _, (activation,) = capture(model, x, (layer,))
    moving = activation.detach().flatten(1)
    return _joint(_FromLayer(model, layer, activation.shape[1:], x.shape[1:]), moving, x, threat)


def in_subspace(model: nn.Module, x: Vectors, threat: Threat, basis: Float[Tensor, "k *d"]) -> View:
    """The model as c -> f(x + sum c_i b_i) with orthonormal b_i: distances in their span, L2, without a box.

    "Constrained margins", Mouton et al., arXiv 2308.15466. In most data some features always stand at the
    edge of the box (an image's background), and hardly any direction of a small subspace keeps all of them
    inside: that is why there is no box here.
    """
    if threat.norm is not L2:
        raise UsageError(f"distances in a subspace are measured in l2, not {threat.norm}: give --norms l2")
    basis = basis.to(x)
    view = _joint(_Within(model, basis), x.new_zeros(len(x), len(basis)), x, threat)
    directions = basis.flatten(1)
    return View(view.model, view.x, view.threat, lambda z: x + (z[:, : len(basis)] @ directions).view_as(x))


def principal_directions(x: Vectors, count: int) -> Float[Tensor, "k *d"]:
    """The orthonormal directions of largest variance of a sample of data, float64."""
    flat = x.flatten(1).double()
    n, features = flat.shape
    if not 1 <= count <= min(n - 1, features):
        raise MarginkitError(
            f"{count} principal directions of {n} samples of {features} features: give 1 to"
            f" {min(n - 1, features)}"
        )
    centred = flat - flat.mean(0)
    if features <= n:
        directions = torch.linalg.eigh(centred.T @ centred)[1].flip(1)[:, :count].T
    else:
        weights = torch.linalg.eigh(centred @ centred.T)[1].flip(1)[:, :count].T
        directions = torch.nn.functional.normalize(weights @ centred, dim=1)
    found: Tensor = directions.reshape(count, *x.shape[1:])
    return found


class _FromLayer(nn.Module):
    def __init__(self, model: nn.Module, layer: str, hidden: torch.Size, shape: torch.Size) -> None:
        super().__init__()
        self.model, self.layer, self.hidden, self.shape = model, layer, hidden, shape

    def forward(self, joint: Tensor) -> Tensor:
        activation = joint[:, : self.hidden.numel()].view(-1, *self.hidden)
        module = self.model.get_submodule(self.layer)
        hook = module.register_forward_hook(lambda *_: activation.clone())  # what follows may work in place
        try:
            scores: Tensor = answer(self.model, _own(joint, self.shape))
        finally:
            hook.remove()
        return scores


class _Within(nn.Module):
    def __init__(self, model: nn.Module, basis: Tensor) -> None:
        super().__init__()
        self.model, self.basis = model, basis

    def forward(self, joint: Tensor) -> Tensor:
        own = _own(joint, self.basis.shape[1:])
        moved = joint[:, : len(self.basis)] @ self.basis.flatten(1)
        scores: Tensor = answer(self.model, own + moved.view_as(own))
        return scores


def _own(joint: Tensor, shape: torch.Size) -> Tensor:
    return joint[:, -shape.numel() :].detach().view(-1, *shape)


def _joint(view: nn.Module, moving: Tensor, x: Vectors, threat: Threat) -> View:
    joint = torch.cat([moving, x.flatten(1)], 1)
    mask = torch.arange(joint.shape[1], device=x.device) < moving.shape[1]
    return View(view, joint, Threat(threat.norm, None, None, mask), None)
