"""Searching in one precision and believing only float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from marginkit.activations import measuring
from marginkit.errors import UsageError
from marginkit.guard.answer import answer, original
from marginkit.guard.casts import mark
from marginkit.guard.precision import copied, in_float64
from marginkit.kinds import Kind, Status
from marginkit.logits import Labels, Scores, crossed, logit_margin, too_coarse
from marginkit.methods.search.verification import LONGER, classify, clean_scores, is_adversarial, shorten
from marginkit.methods.search.views import View
from marginkit.norms import Vectors, column
from marginkit.types import Bracket

Precision = Literal["float32", "float64", "bfloat16"]
PRECISE = 2**-12  # of the bisection towards the boundary that float64 sees


@dataclass(frozen=True)
class Models:
    """One classifier in the precisions it is used in.

    Attributes:
        plain: for proofs and estimates; float32 or float64.
        search: for searches; in bfloat16 where that is chosen.
        judge: in float64, for deciding what a witness is worth; None leaves that to the search.
    """

    plain: nn.Module
    search: nn.Module
    judge: nn.Module | None = None

    def of(self, kind: Kind) -> nn.Module:
        """The model that methods of this kind see; bfloat16 proves nothing."""
        return self.search if kind is Kind.UPPER else self.plain

    def scores(self, x: Vectors) -> Scores:
        """The clean inputs' scores, as precisely as there are."""
        with measuring(self.judge or self.plain, x, torch.zeros(len(x))) as given, torch.no_grad():
            scores = clean_scores(given.model, given.x)
            double = in_float64(given.model, given.x, too_coarse(scores, scores.argmax(1)))
            rows = double.rows.nonzero().squeeze(1)
            return (
                scores
                if not len(rows)
                else _finer(scores, rows, answer(double.model, given.x[rows].double()))
            )


def _finer(scores: Scores, rows: Tensor, finer: Tensor) -> Scores:
    return scores.double().index_copy(0, rows, finer)


def in_precision(model: nn.Module, precision: str | None) -> Models:
    """The model in a precision; None leaves it as it is, to be judged as it is.

    bfloat16 is autocast's: weights and inputs stay float32, so that inputs are not rounded.

    Raises:
        UsageError: another precision than `Precision` has.
    """
    model = original(model)
    if precision is None:
        return Models(model, model)
    if precision not in get_args(Precision):
        raise UsageError(f"no precision {precision!r}; choose from {', '.join(get_args(Precision))}")
    judge = mark(copied(model).double().eval().requires_grad_(False), torch.float64)
    judge.register_forward_pre_hook(lambda _, inputs: tuple(x.double() for x in inputs))
    if precision == "float64":
        exact = mark(copied(model).double(), torch.float64)
        return Models(exact, exact, judge)
    plain = mark(copied(model).float(), torch.float32)
    return Models(plain, _autocast(plain) if precision == "bfloat16" else plain, judge)


def confirmed(judge: View, y: Labels, found: Bracket, again: Callable[[Tensor], Bracket]) -> Bracket:
    """A search's answer as float64 sees it.

    A witness that does not hold is taken farther along its direction, and then brought back to float64's
    boundary; samples where none is found so are searched `again` (given their rows).
    """
    with torch.no_grad():
        clean = classify(answer(judge.model, judge.x), y)
    asked = clean == Status.OK
    first = _held(judge, y, found, asked)
    missing = (asked & ~first.upper.isfinite()).nonzero().squeeze(1)
    if len(missing):
        part = View(judge.model, judge.x[missing], judge.threat, judge.restore)
        retried = _held(part, y[missing], again(missing), asked[missing])
        first = first.placed(retried, missing)
    wrong = clean == Status.MISCLASSIFIED
    exhausted = torch.where(asked & ~first.upper.isfinite(), int(Status.EXHAUSTED), int(Status.OK))
    kept = torch.where(found.status == Status.ZERO_GRADIENT, found.status, exhausted)
    kept = torch.where(first.upper.isfinite(), int(Status.OK), kept)
    return replace(
        first,
        upper=torch.where(wrong, 0.0, first.upper),
        status=torch.where(asked, kept, clean),
        witness=None
        if first.witness is None
        else torch.where(column(wrong, judge.x), judge.x, first.witness),
    )


def _held(judge: View, y: Labels, found: Bracket, asked: Tensor) -> Bracket:
    """What float64 confirms of the witnesses, each as it will be stored."""
    x, threat = judge.x, judge.threat
    witness, farther = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    if found.witness is not None:
        start = found.witness.to(x)
        given = (asked & ~start.isnan().flatten(1).any(1)).nonzero().squeeze(1)
        for share in (s for s in LONGER if s >= 1):
            moved = threat.on_grid(x[given] + share * (start[given] - x[given]))
            point = _stored(threat.clip(x[given], moved))
            over = is_adversarial(judge.model, point, y[given])
            (witness if share == 1 else farther)[given[over]] = point[over]
            given = given[~over]
            if not len(given):
                break
    if threat.levels is None:
        nearer = _stored(shorten(judge.model, x, y, threat, farther, PRECISE))
        farther = torch.where(column(is_adversarial(judge.model, nearer, y), x), nearer, farther)
    witness = torch.where(witness.isnan(), farther, witness)
    there = ~witness.isnan().flatten(1).any(1)
    with torch.no_grad():
        scores = answer(judge.model, torch.where(column(there, x), witness, x))
    holds = there & crossed(scores, y, 1.0)
    distance = threat.norm.length(witness.double() - x.double())
    return Bracket(
        lower=torch.zeros_like(distance),
        upper=torch.where(holds, distance, torch.inf),
        status=found.status,
        rival=torch.where(holds, logit_margin(scores, y)[1], -1),
        witness=torch.where(column(holds, x), witness, torch.nan),
        note=found.note,
    )


def _stored(points: Tensor) -> Tensor:
    """As a table keeps them, in float32."""
    return points.float().to(points)


def _autocast(model: nn.Module) -> nn.Module:
    """The same weights, run in bfloat16 where PyTorch's autocast deems it safe; scores in float32."""
    fast = copy.copy(model)  # shares every submodule and parameter
    fast._forward_hooks, fast._forward_pre_hooks = (
        model._forward_hooks.copy(),
        model._forward_pre_hooks.copy(),
    )
    device = next((p.device.type for p in model.parameters()), "cpu")
    plain = fast.forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            scores: Tensor = plain(x)
        return scores.float()

    fast.forward = forward
    return mark(fast, torch.bfloat16, casts=False)
