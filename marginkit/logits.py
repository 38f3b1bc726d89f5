"""Scores and their rivals: the quantities every margin is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from marginkit.errors import MarginkitError
from marginkit.guard.answer import answer
from marginkit.guard.given import as_batch_labels, refuse_quantised

Scores = Float[Tensor, "n classes"]
Labels = Int[Tensor, "n"]
# The largest shares of a logit margin that the gap may be (searches go twice as far beyond the boundary), and
# how many times larger than their differences scores with a constant on them are.
ROUGH, FINE, OFFSET, APART = 2**-4, 2**-9, 64, 8


def check_scores(scores: Tensor, y: Labels) -> None:
    """Refuses what is not one score per class, and labels without a score."""
    if scores.ndim != 2 or len(scores) != len(y) or scores.shape[1] < 2:
        raise MarginkitError(
            f"the model answered with shape {tuple(scores.shape)} for {len(y)} samples; expected"
            f" [{len(y)}, classes] with at least 2 classes (give a one-score model a second output, -score)"
        )
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < scores.shape[1]:
        raise MarginkitError(
            f"labels run from {int(y.min())} to {int(y.max())}, but the model has {scores.shape[1]} scores:"
            f" labels must lie in 0..{scores.shape[1] - 1}"
        )


def scored(model: nn.Module, x: Float[Tensor, "n *d"], y: Any) -> tuple[Scores, Labels]:
    """What a loss begins with: the model's scores of a batch, and its labels as classes.

    Raises:
        MarginkitError: the batch is empty, its labels are no classes, or the model gives no scores or is
            quantised.
    """
    y = as_batch_labels(y, x)
    scores = answer(model, x)
    check_scores(scores, y)
    if torch.is_grad_enabled() and not scores.requires_grad:
        refuse_quantised(model)
    return scores, y


def refuse_probabilities(scores: Scores) -> None:
    """Refuses a batch of probabilities: distances estimated and searched on them are distorted or lost."""
    sums = scores.sum(1)
    if len(scores) > 1 and bool((scores >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        raise MarginkitError(
            "the model answers with probabilities (rows that sum to 1); expected logits: take its last"
            " softmax away, for its gradient vanishes where the model is confident"
        )


def rivals(scores: Scores, y: Labels, top_k: int | None) -> Int[Tensor, "n k"]:
    """The classes of largest score other than y, largest first; all of them where top_k is None.

    A class whose score is -inf (masked out) is no rival: the first one stands in its place again.
    """
    others = scores.shape[1] - 1
    k = others if top_k is None else min(top_k, others)
    lowest = torch.finfo(scores.dtype).min  # stands for -inf, so that y comes after classes masked out
    best = scores.clamp(min=lowest).scatter(1, y.unsqueeze(1), -torch.inf).topk(k, dim=1)
    return best.indices if k == 1 else torch.where(best.values == lowest, best.indices[:, :1], best.indices)


def differences(scores: Scores, y: Labels, rival: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """f_y - f_j for each rival j."""
    return scores.gather(1, y.unsqueeze(1)) - scores.gather(1, rival)


def ahead(y: Labels, rival: Int[Tensor, "n k"], scores: Scores) -> Float[Tensor, "n k classes"]:
    """These differences as linear functions of the scores."""
    unit = torch.eye(scores.shape[1], dtype=scores.dtype, device=scores.device)
    return unit[y].unsqueeze(1) - unit[rival]


def logit_margin(scores: Scores, y: Labels) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """f_y - max_{j != y} f_j, and that j; not positive exactly where the sample is misclassified or tied."""
    rival = rivals(scores, y, 1)
    return differences(scores, y, rival).squeeze(1), rival.squeeze(1)


def right(scores: Scores, y: Labels) -> Bool[Tensor, "n"]:
    """Which samples are classified as labelled: their share is the accuracy."""
    return scores.argmax(1) == y


def answered(scores: Scores) -> Bool[Tensor, "n"]:
    """Which samples have a class: no score is NaN or +inf, and not all are -inf (classes masked out)."""
    return scores.amax(1).isfinite()


def gap(scores: Scores, y: Labels, rival: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """How far each rival must lead before it counts: 64 units in the last place of the larger of both scores.

    That is what lets a witness survive another batch size, another device and float64. Other scores do not
    count: however large they are, this difference is not computed from them.
    """
    about = torch.finfo(scores.dtype)
    size = scores.clamp(min=about.min).abs()  # -inf stands for a class masked out
    return 64 * about.eps * torch.maximum(size.gather(1, y.unsqueeze(1)), size.gather(1, rival))


def too_coarse(scores: Scores, y: Labels) -> Bool[Tensor, "n"]:
    """Where the gap would show in a distance, as a large share of the logit margin.

    A few samples near the boundary have small margins in any network. Where the leading three scores are
    large but close together, as when a constant is added to all, a much smaller share counts.
    """
    margin, rival = logit_margin(scores, y)
    share = gap(scores, y, rival.unsqueeze(1)).squeeze(1) / margin.abs()
    leading = scores.topk(min(3, scores.shape[1]), dim=1).values
    size, spread = leading.abs().amin(1), leading[:, 0] - leading[:, -1]
    spread = torch.where(spread > APART * size, margin.abs(), spread)  # the third is masked out
    return (share > ROUGH) | ((share > FINE) & (size > OFFSET * spread))


def crossed(scores: Scores, y: Labels, gaps: float = 1.5) -> Bool[Tensor, "n"]:
    """Which samples are misclassified by more than rounding.

    Searches ask for half a gap more than verification does, or what they find on the edge would fall to the
    very rounding that the gap is there for.
    """
    margin, rival = logit_margin(scores, y)
    return margin < -gaps * gap(scores, y, rival.unsqueeze(1)).squeeze(1)


def gradients(
    difference: Float[Tensor, "n k"],
    activations: Sequence[Tensor],
    *,
    differentiable: bool = False,
    keep_graph: bool = False,
    together: bool = False,
    entry: Tensor | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """For each rival in turn, the gradient of every sample's difference at every activation.

    Differentiates the batch's sum: right wherever samples do not interact, which excludes BatchNorm in
    train mode. Uses `torch.autograd.grad`, so that no `.grad` is ever written.

    Args:
        difference: one column per rival.
        activations: tensors [n, ...] in the graph of `difference`.
        differentiable: keep the graph of the gradients themselves.
        keep_graph: keep the graph of `difference` after the last rival.
        together: all rivals in one vectorised pass: a third faster on dense layers, slower with pooling.
        entry: the output of the convolution through which alone the first activation acts, where that is
            the input with one channel: its gradient is taken from there by PyTorch's own kernel, as oneDNN's
            takes two to four times as long.
    """
    count = difference.shape[1]
    if together:
        seeds = torch.eye(count, dtype=difference.dtype, device=difference.device)
        stacked = torch.autograd.grad(
            difference,
            list(activations),
            seeds[:, None].expand(count, *difference.shape),
            retain_graph=keep_graph,
            is_grads_batched=True,
            materialize_grads=True,
        )
        yield from zip(*stacked, strict=True)
        return
    points = list(activations) if entry is None else [entry, *activations[1:]]
    for k in range(count):
        found = torch.autograd.grad(
            difference[:, k].sum(),
            points,
            create_graph=differentiable,
            retain_graph=differentiable or keep_graph or k < count - 1,
            materialize_grads=True,
        )
        if entry is not None:
            found = (_through_convolution(entry, activations[0], found[0]), *found[1:])
        yield found


def linearised_distance(
    difference: Float[Tensor, "*#n"], length: Float[Tensor, "*#n"], epsilon: float = 0.0
) -> Float[Tensor, "..."]:
    """(f_y - f_j) / |grad (f_y - f_j)|_q: how far the boundary is that the linearised scores predict.

    Exact where the scores are linear, for the norm that q is dual to; negative behind the boundary. A tie is
    at distance 0 whatever its gradient; elsewhere a gradient of zero puts the boundary infinitely far away.

    Args:
        difference: f_y - f_j.
        length: of its gradient, in the dual norm.
        epsilon: added to the length.
    """
    length = length + epsilon
    tie = (difference == 0) & ~(length > 0)
    return difference / torch.where(tie, 1, length)


def _through_convolution(entry: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    set_flags = torch.backends.mkldnn.set_flags
    before = set_flags(_enabled=False)[0]  # type: ignore[no-untyped-call]
    try:
        return torch.autograd.grad(entry, x, gradient, retain_graph=True)[0]
    finally:
        set_flags(_enabled=before)  # type: ignore[no-untyped-call]
