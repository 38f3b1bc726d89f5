"""The large-margin loss: push the linearised decision boundary away, at any layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.errors import MarginkitError, UsageError
from marginkit.guard.given import as_batch_labels
from marginkit.kinds import INPUT
from marginkit.layers import resolve_layers
from marginkit.logits import Labels, check_scores, differences, rivals, scored
from marginkit.losses.cross_entropy import CrossEntropy
from marginkit.losses.distances import Gamma, of_distances, per_layer, typical
from marginkit.losses.linearised import NONE, Shortcuts, linearised
from marginkit.losses.lipschitz_constants import POWER_STEPS, pair_constants
from marginkit.losses.newton_walk import toward_boundary
from marginkit.losses.paper_loss import Aggregate
from marginkit.losses.shared_backward import Owner, dense, entrance, owning
from marginkit.norms import NORMS, Vectors
from marginkit.types import Threat


def large_margin(
    scores: Float[Tensor, "n classes"],
    y: Labels,
    activations: Sequence[Tensor],
    *,
    norm: str = "l2",
    gamma: Gamma = 1.0,
    reach: float = 0.8,
    alpha: float = 4.0,
    top_k: int | None = 1,
    aggregate: Aggregate = "min",
    layer_weights: Literal["numel"] | Sequence[float] | None = None,
    differentiate_norm: bool = False,
    epsilon: float = 1e-6,
    moved: Sequence[Tensor] | None = None,
    shortcuts: Shortcuts = NONE,
) -> Float[Tensor, ""]:
    """`paper_loss` of given scores, and of the activations they were computed from.

    Where the scores were computed at another point than the one whose distance is wanted, `moved` says how
    far each activation is from there: d is then the distance to the boundary's tangent plane at that point,
    (D_i - <grad D_i, moved>) / |grad D_i|_q.

    Args:
        scores: what is compared: logits, or probabilities as in the authors' code.
        y: labels.
        activations: tensors [n, ...] in the graph of `scores`, one a layer; may include the input.
        norm: of distances, `l1`, `l2` or `linf`.
        gamma: the distance beyond which nothing is gained; one number, or one a layer. `auto` measures each
            layer's distances in units of its gamma, `reach` times the batch's median distance of the samples
            classified right.
        reach: for `auto`.
        alpha: distances below gamma (1 - alpha) cost no more: badly wrong samples are left alone.
        top_k: rivals, those of largest score; None for all.
        aggregate: over rivals: `min` counts the nearest boundary only, `sum` and `mean` all of them.
        layer_weights: w_l multiplies a layer's distances; "numel" takes the layer's number of elements.
        differentiate_norm: differentiate the gradient's norm as well (exact, needs double backward); by
            default it is a constant in backprop.
        epsilon: added to the norm.
        moved: for each activation, its displacement from the point whose distance is wanted; None for 0.
        shortcuts: to the gradients, where the model allows some.

    Raises:
        MarginkitError: top_k exceeds the rivals there are; gamma or layer_weights do not fit the layers.
    """
    check_scores(scores, y)
    others = scores.shape[1] - 1
    if top_k is not None and not 1 <= top_k <= others:
        raise MarginkitError(
            f"top_k is {top_k}, but there are {others} rivals: give 1 to {others}, or None for all"
        )
    sizes = [h[0].numel() for h in activations] if layer_weights == "numel" else layer_weights
    weights = scores.new_tensor(per_layer("layer_weights", 1.0 if sizes is None else sizes, activations))
    difference, length = linearised(
        scores, y, activations, NORMS[norm], top_k,
        moved=moved, differentiate_norm=differentiate_norm, shortcuts=shortcuts,
    )  # fmt: skip
    return of_distances(
        difference, length, gamma=gamma, reach=reach, alpha=alpha, aggregate=aggregate, weights=weights,
        epsilon=epsilon,
    )  # fmt: skip


@dataclass(frozen=True)
class LargeMargin:
    """`large_margin` of a model, and optionally some cross-entropy beside it.

    Reads norms with `torch.autograd.grad`: no `.grad` is written before your own `backward()`.

    In train mode BatchNorm makes samples interact, and a sample's gradient then holds a share of the
    others': distances behind a BatchNorm layer are approximate in training (1-43 % in the norm, measured
    on batches of 8). Measured margins are not concerned: they are taken in eval mode.

    With `steps` the boundary is linearised not at the input but where so many Newton steps towards it lead,
    and distances are those to its tangent plane there: nearer to the distances really found, and lowering
    the loss moves the boundary itself. 0 is the paper's loss. Beside it stands cross-entropy, alone for a
    share of training.

    Attributes:
        layers: module names, `input`, `hidden` or `all`.
        score: compare logits, or the softmax probabilities of the authors' code, with which gamma is
            not a distance in pixels.
        steps: towards the boundary before it is linearised.
        norm_of: what D is divided by: the length of its `gradient`, which linearises, or its `lipschitz`
            constant (`pair_constants`), which makes every distance a proved one, at the input and in L2;
            steps, layer_weights and differentiate_norm then have no meaning.
        low, high: the box that these steps stay in; None for none.
        cross_entropy: weight of the cross-entropy added.
        warm_up: the share of training with cross-entropy alone.
        norm, gamma, reach, alpha, top_k, aggregate, layer_weights, differentiate_norm, epsilon: as in
            `large_margin`.
    """

    layers: tuple[str, ...] = ("all",)
    norm: Literal["l1", "l2", "linf"] = "l2"
    gamma: float | tuple[float, ...] | Literal["auto"] = "auto"
    reach: float = 0.8
    alpha: float = 4.0
    top_k: int | None = 1
    score: Literal["prob", "logit"] = "logit"
    aggregate: Aggregate = "min"
    layer_weights: Literal["numel"] | tuple[float, ...] | None = None
    differentiate_norm: bool = False
    epsilon: float = 1e-6
    steps: int = 2
    norm_of: Literal["gradient", "lipschitz"] = "gradient"
    low: float | None = None
    high: float | None = None
    cross_entropy: float = 4.0
    warm_up: float = 0.1

    def at(self, share: float) -> LargeMargin | CrossEntropy:
        """The loss when this share of training is done."""
        return CrossEntropy() if share < self.warm_up else self

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch, ready for `backward()`.

        Raises:
            MarginkitError: as `large_margin` and `capture`; or the norm is to be differentiated and the
                model has an operation that can't be differentiated twice.
        """
        y = as_batch_labels(y, x)
        if self.norm_of == "lipschitz":
            return self._certified(model, x, y)
        layers = resolve_layers(model, self.layers, x)
        own = owning(model) if self._shares(x) else {}
        first = entrance(model) if layers[0] == INPUT and not self.differentiate_norm else None
        points = tuple(dict.fromkeys((*layers, *own, *([first] if first else []))))
        clean, here = capture(model, x, layers if self.steps else points, inplace=not (own or first))
        logits, there, moved = clean, here, None
        if self.steps:
            check_scores(clean, y)
            logits, there = capture(model, self._ahead(model, x, y), points, inplace=not (own or first))
            moved = [(h - before).detach() for h, before in zip(there, here, strict=False)]
        at = dict(zip(points, there, strict=True))
        loss = large_margin(
            logits.softmax(1) if self.score == "prob" else logits,
            y,
            there[: len(layers)],
            norm=self.norm,
            gamma=self.gamma,
            reach=self.reach,
            alpha=self.alpha,
            top_k=self.top_k,
            aggregate=self.aggregate,
            layer_weights=self.layer_weights,
            differentiate_norm=self.differentiate_norm,
            epsilon=self.epsilon,
            moved=moved,
            shortcuts=Shortcuts(
                owners=[Owner(at[name], parameters) for name, parameters in own.items()],
                together=self.top_k != 1 and not self.differentiate_norm and dense(model),
                entry=at[first] if first else None,
            ),
        )
        return loss + self.cross_entropy * F.cross_entropy(clean, y) if self.cross_entropy else loss

    def _certified(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The same loss of the distances that Lipschitz constants prove."""
        if self.norm != "l2" or self.layers not in (("all",), (INPUT,)):
            raise UsageError(
                f"norm_of=lipschitz with norm={self.norm}, layers={','.join(self.layers)}: its constants are"
                " known in l2, at the input; leave both options away"
            )
        scores, y = scored(model, x, y)
        rival = rivals(scores, y, self.top_k)
        constants = pair_constants(model, x, scores.shape[1], POWER_STEPS)
        loss = of_distances(
            differences(scores, y, rival).unsqueeze(2),
            constants[y.unsqueeze(1), rival].unsqueeze(2),
            gamma=self.gamma,
            reach=self.reach,
            alpha=self.alpha,
            aggregate=self.aggregate,
            weights=torch.ones_like(scores[0, :1]),
            epsilon=self.epsilon,
        )
        return loss + self.cross_entropy * F.cross_entropy(scores, y) if self.cross_entropy else loss

    def _shares(self, x: Vectors) -> bool:
        """Whether one rival's difference is all that is differentiated, and for the parameters alone."""
        beside = bool(self.cross_entropy) and not self.steps
        return self.top_k == 1 and not (self.differentiate_norm or beside or x.requires_grad)

    def _ahead(self, model: nn.Module, x: Vectors, y: Labels) -> Vectors:
        """Towards the boundary, no farther than where distances at the first layer stop to count."""
        first = self.gamma[0] if isinstance(self.gamma, tuple) else self.gamma

        def limit(distance: Float[Tensor, "n"]) -> float | Tensor:
            unknown = first == "auto" or self.score == "prob"
            return typical(distance.view(-1, 1, 1), self.reach) if unknown else float(first)

        threat = Threat(NORMS[self.norm], self.low, self.high)
        return toward_boundary(model, x, y, threat, self.steps, limit)
