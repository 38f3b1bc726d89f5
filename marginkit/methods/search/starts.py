"""Where a search starts: beyond boundaries met in several geometries, at the input itself, in noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.errors import UsageError
from marginkit.guard.sharing import once
from marginkit.kinds import INPUT
from marginkit.logits import Labels, crossed, differences, gap, linearised_distance
from marginkit.methods.search.linearisation import linearise, nudge
from marginkit.methods.search.path import wander
from marginkit.methods.search.refinement import TINY, Attempts
from marginkit.methods.search.verification import is_adversarial, shorten
from marginkit.norms import L2, NORMS, Norm, Vectors, along, column
from marginkit.types import Threat

RATES = {"l1": 1.5, "l2": 1.5, "linf": 1.0}  # of the first step, in its `unit`
SLOW = 0.3  # of that rate, in a last stage
WALK, OVERSHOOT = 6, 0.02
SCALES = (0.1, 0.2, 0.4, 0.8, 1.6)
TRIES, PATIENCE = 8, 40  # random points for a sample that no start took across, and until one does
FORMS = (
    "l1:RANK, l2:RANK, linf:RANK, own:RANK, denser:RANK, input:RATE, across:RATE, path:STEPS or noise:SEED"
)
DENSER = {"l1": "l2", "l2": "linf", "linf": "linf"}


@dataclass(frozen=True)
class Start:
    """One way to start, written `form:number`; see `FORMS`."""

    form: str
    number: float

    @staticmethod
    def parse(text: str, norm: Norm) -> Start:
        """From `form:number`; `own` and `denser` become the geometry they mean in that norm.

        Raises:
            UsageError: there is no such form.
        """
        form, _, number = text.partition(":")
        form = {"own": norm.name, "denser": DENSER[norm.name]}.get(form, form)
        try:
            start = Start(form, float(number or 0))
        except ValueError:
            start = Start("", 0)
        if start.form not in (*NORMS, "input", "across", "noise", "path") or start.number < (form == "path"):
            raise UsageError(f"{text!r} is not a start; give {FORMS}")
        return start


@dataclass(frozen=True)
class Linear:
    """The classifier linearised at `point`, the clean inputs or a hair beside those without a gradient."""

    point: Vectors
    rival: Int[Tensor, "n k"]
    drop: Float[Tensor, "n k"]
    gradient: Float[Tensor, "n k *d"]

    @staticmethod
    def at(model: nn.Module, x: Vectors, y: Labels, threat: Threat, rivals: int | None) -> Linear:
        """Towards the rivals of largest logit."""
        found = once(("linearised", rivals), model, (x, y), lambda: linearise(model, x, y, rivals))
        flat = (found[2].flatten(1).abs().amax(1) == 0).nonzero().squeeze(1)
        if not len(flat):
            return Linear(x, *found)
        point = x.index_copy(0, flat, threat.clip(x[flat], x[flat] + nudge(x, threat)[flat]))
        anew = linearise(model, point[flat], y[flat], rivals)
        return Linear(point, *(a.index_copy(0, flat, b) for a, b in zip(found, anew, strict=True)))

    def __getitem__(self, rows: Tensor) -> Linear:
        return Linear(self.point[rows], self.rival[rows], self.drop[rows], self.gradient[rows])

    def distance(self, threat: Threat) -> Float[Tensor, "n k"]:
        """To each boundary, without the box."""
        dual = threat.norm.dual.length(self.gradient.flatten(0, 1)).view_as(self.drop)
        return linearised_distance(self.drop, dual.clamp(min=TINY))


def attempts(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, starts: Sequence[Start], rivals: int | None
) -> Attempts:
    """One attempt a start and sample; another where none of those has crossed."""
    found = each_start(model, x, y, threat, starts, Linear.at(model, x, y, threat, rivals))
    lost = torch.ones(len(x), dtype=torch.bool, device=x.device)
    lost[found.owner[found.best.isfinite()]] = False
    rows = lost.nonzero().squeeze(1)
    if not len(rows):
        return found
    more = _rescue(model, x[rows], y[rows], threat, rivals)
    return Attempts.join([found, replace(more, owner=rows[more.owner])])


def each_start(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, starts: Sequence[Start], linear: Linear
) -> Attempts:
    """The starts' attempts alone, however few of them have crossed."""
    nearest = linear.distance(threat).amin(1)
    parts = []
    for start in starts:
        if start.form in NORMS:
            if start.number < linear.rival.shape[1]:
                geometry = replace(threat, norm=NORMS[start.form])
                witness = _walk(model, x, y, geometry, linear, int(start.number))
                parts.append(_beyond(model, x, y, threat, witness))
        elif start.form == "path":
            radius = linear.distance(replace(threat, norm=L2)).amin(1)
            witness = wander(model, x, y, threat, radius, int(start.number))
            parts.append(_beyond(model, x, y, threat, witness))
        elif start.form == "noise":
            best = Attempts.join(parts).least(len(x)) if parts else torch.full_like(nearest, torch.inf)
            witness = _scatter(model, x, y, threat, linear.rival.shape[1], int(start.number), best)
            parts.append(_beyond(model, x, y, threat, witness))
        else:
            parts.append(_inside(linear.point - x, threat, 0.3 * nearest, start))
    return Attempts.join(parts or [_inside(linear.point - x, threat, 0.3 * nearest, Start("input", 1))])


def _beyond(model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Vectors) -> Attempts:
    """From an adversarial input; NaN rows are left out."""
    found = (~witness.flatten(1).isnan().any(1)).nonzero().squeeze(1)
    x = x[found]
    witness = shorten(model, x, y[found], threat, witness[found], 0.0, passes=3)
    delta = witness - x
    length = threat.norm.length(delta)
    rate = torch.full_like(length, RATES[threat.norm.name])
    return Attempts(found, delta, length, rate, torch.zeros_like(found, dtype=torch.bool), length, delta)


def _inside(delta: Vectors, threat: Threat, radius: Float[Tensor, "n"], start: Start) -> Attempts:
    """From the input or beside it, with a small radius that grows until it meets a boundary."""
    owner = torch.arange(len(delta), device=delta.device)
    rate = torch.full_like(radius, start.number * RATES[threat.norm.name])
    across = torch.full_like(owner, start.form == "across", dtype=torch.bool)
    return Attempts(owner, delta, radius, rate, across, torch.full_like(radius, torch.inf), delta)


def _walk(model: nn.Module, x: Vectors, y: Labels, threat: Threat, linear: Linear, rank: int) -> Vectors:
    """DeepFool towards the rank-nearest rival, in the threat's geometry; samples leave as they cross."""
    order = linear.distance(threat).argsort(dim=1, stable=True)[:, rank]
    rows = torch.arange(len(x), device=x.device)
    target, drop, gradient = linear.rival[rows, order], linear.drop[rows, order], linear.gradient[rows, order]
    witness = torch.full_like(x, torch.nan)
    active, here = rows, linear.point
    for _ in range(WALK):
        low, high = threat.room(here)
        step = threat.norm.reach(gradient, -(1 + OVERSHOOT) * drop, low, high)
        here = threat.clip(x[active], here + step)
        scores, activations = capture(model, here, (INPUT,))
        over = crossed(scores.detach(), y[active])
        witness[active[over]] = here[over]
        if over.all():
            break
        labels, rival = y[active], target[active].unsqueeze(1)
        margin = differences(scores, labels, rival).squeeze(1)
        (gradient,) = torch.autograd.grad(margin.sum(), activations, materialize_grads=True)
        drop = (margin.detach() + 2 * gap(scores.detach(), labels, rival).squeeze(1))[~over]
        active, here, gradient = active[~over], here[~over], gradient[~over]
    return witness


def _rescue(model: nn.Module, x: Vectors, y: Labels, threat: Threat, rivals: int | None) -> Attempts:
    """DeepFool from random points, the same for every sample: `TRIES` of them, more until one crosses."""
    hits = torch.zeros(len(x), dtype=torch.long, device=x.device)
    parts = []
    for seed in range(PATIENCE):
        active = ((hits == 0) | (seed < TRIES)).nonzero().squeeze(1)
        if not len(active):
            break
        origin, labels = x[active], y[active]
        unmet = torch.full(labels.shape, torch.inf).to(x)
        witness = _scatter(model, origin, labels, threat, rivals, seed, unmet)
        found = _beyond(model, origin, labels, threat, witness)
        parts.append(replace(found, owner=active[found.owner]))
        hits[parts[-1].owner] += 1
    return Attempts.join(parts)


def _scatter(
    model: nn.Module,
    x: Vectors,
    y: Labels,
    threat: Threat,
    rivals: int | None,
    seed: int,
    best: Float[Tensor, "n"],
) -> Vectors:
    """DeepFool from a random point, which depends on no other sample; the point itself if it has crossed."""
    point = _random_point(x, threat, seed, best)
    linear = Linear.at(model, point, y, threat, rivals)
    witness = _walk(model, x, y, threat, linear, seed % linear.rival.shape[1])
    over = is_adversarial(model, point, y)
    return torch.where(column(over, x), point, witness)


def _random_point(x: Vectors, threat: Threat, seed: int, best: Float[Tensor, "n"]) -> Vectors:
    """Uniform in the box or, without one, in a random direction; as far out as the seed says."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(x.shape[1:], generator=generator, dtype=torch.float64).to(x)
    free = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64).to(x)
    scale = SCALES[-1 - seed % len(SCALES)]
    low, high = threat.room(x)
    around = torch.where(best.isfinite(), best, 4 * threat.norm.length(x).clamp(min=1))
    wild = scale * along(around / threat.norm.length(free.expand_as(x)), free.expand_as(x))
    if low is None or high is None:
        return x + wild
    inside = min(scale, 1.0) * (low + share * (high - low))
    return threat.clip(x, x + torch.where((high - low).isfinite(), inside, wild))
