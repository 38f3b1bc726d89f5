"""The search for the largest radius that a proof reaches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Prove = Callable[[Tensor, Tensor, Tensor], Tensor]
Point = tuple[Tensor, Tensor]
FARTHER = 8.0  # the first radius to try beyond one that nothing ends
Keep = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def largest_proved(
    prove: Prove,
    margin: Float[Tensor, "n k"],
    guess: Float[Tensor, "n"],
    limit: Float[Tensor, "n"],
    precision: float,
    rounds: int = 40,
) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """For each sample a radius at which all its targets were proved, near the largest one.

    What is proved at a radius holds within it, so the answer is right whatever the course of the search: it
    is a radius that was tried. The proof's bounds fall with the radius, in a curve that mostly bends down.
    So the secant through two proved radii leads beyond the end and the chord from a proved to a failed one
    falls short of it: taken in turn they close in on it from both sides. Samples leave as they finish, and
    targets proved where another failed are proved below it too and are dropped.

    Args:
        prove: (samples, radius, target positions [m, j]) -> bounds [m, j], positive where proved.
        margin: the bounds at radius 0, all positive.
        guess: the first radius to try.
        limit: where the ball holds all there is; inf for no end.
        precision: the radius that fails is larger than the proved one by at most this share of it.
        rounds: radii tried at most.

    Returns:
        The radius, inf where `limit` itself was proved; and the target that stands in the way, -1 for none.
    """
    n, device = len(margin), margin.device
    low, at_low = torch.zeros_like(guess), margin.amin(1)
    before, at_before = low.clone(), at_low.clone()
    high, at_high = torch.full_like(guess, torch.inf), torch.zeros_like(guess)
    left = torch.ones_like(margin, dtype=torch.bool)
    trial = guess.minimum(limit)
    blocking = torch.full((n,), -1, device=device)
    failed = torch.zeros(n, dtype=torch.bool, device=device)
    active = torch.arange(n, device=device)
    for _ in range(rounds):
        chosen, padding = _positions(left[active])
        bounds = prove(active, trial[active], chosen).masked_fill(padding, torch.inf)
        bounds = bounds.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        worst, which = bounds.min(1)
        proved = worst > 0
        up, down = active[proved], active[~proved]
        twice = failed & torch.zeros_like(failed).index_fill(0, down, True)
        failed[active] = ~proved
        before[up], at_before[up] = low[up], at_low[up]
        low[up], at_low[up] = trial[up], worst[proved]
        high[down], at_high[down] = trial[down], worst[~proved].clamp(min=-1e300)
        blocking[down] = chosen[~proved].gather(1, which[~proved].unsqueeze(1)).squeeze(1)
        failures = torch.zeros(len(down), margin.shape[1], dtype=torch.int, device=device)
        left[down] = failures.scatter_add(1, chosen[~proved], (bounds <= 0)[~proved].int()) > 0
        open_ = (high.isinf() | (high - low > precision * high)) & (low < limit)
        active = active[open_[active]]
        if not len(active):
            break
        ahead = low - at_low * (low - before) / (at_low - at_before)  # the secant of the proved
        ahead = torch.where(ahead > low, ahead, torch.inf)
        chord = low + (high - low) * at_low / (at_low - at_high.maximum(-2 * at_low)) * (1 - 1e-9)
        middle = torch.where(twice, (low + high) / 2, chord)
        bracketed = torch.where(
            (trial == low) & (ahead < high), ahead.maximum(low + precision * high / 4), middle
        )
        trial = torch.where(high.isinf(), ahead.clamp(max=8 * low).maximum(low * (1 + precision)), bracketed)
        trial = trial.nan_to_num(nan=0, posinf=torch.inf).minimum(limit)
    finished = low >= limit
    return torch.where(finished, torch.inf, low), torch.where(finished, -1, blocking)


def _positions(left: Bool[Tensor, "m k"]) -> tuple[Int[Tensor, "m j"], Bool[Tensor, "m j"]]:
    """The positions of what is left, as many columns as the longest row has; and which are only padding.

    Padding repeats a row's own first target: another target would take part in what is chosen for the sample.
    """
    most = max(1, int(left.sum(1).amax()))
    order = left.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    padding = ~left.gather(1, order)
    return torch.where(padding, order[:, :1], order), padding


def largest_kept(
    prove: Keep,
    known: Float[Tensor, "n"],
    blocking: Int[Tensor, "n"],
    most: Float[Tensor, "n"],
    limit: Float[Tensor, "n"],
    precision: float = 2**-6,
    rounds: int = 8,
) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """The largest radius tried with F(r) >= r, where F(r) is what would be proved if constants within r held.

    They hold within r alone. A smaller F(r) proves nothing: what holds of the whole ball, as where a box
    ends, need not shrink with it.
    Where F falls with r the best r is the one that F leaves as it is, between r and F(r). There the secant of
    log F(r) - log r through the last two leads, after a geometric mean at first; it aims just inside.

    Args:
        prove: (samples, radius) -> F, and what stands in the way.
        known: what is proved already: the first radius tried.
        blocking: what stands in its way.
        most: nothing larger is looked for; samples for which this is hardly more than is known are left.
        limit: where the ball holds all there is; inf for no end.
        precision: where F falls, the radius is farther from the best one by at most this share of it, if
            `rounds` suffice.
        rounds: radii tried at most.

    Returns:
        The radius, inf where `limit` itself was proved; and what stands in the way.
    """
    known, blocking = torch.where(known < limit, known, torch.inf), blocking.clone()
    low, high, trial = known.clone(), torch.where(most < limit, most, torch.inf), known.clone()
    unknown = torch.full_like(known, torch.nan)
    before = last = (known.log(), unknown)
    active = ((known > 0) & (high > known * (1 + precision))).nonzero().squeeze(1)
    for _ in range(rounds):
        if not len(active):
            break
        at = trial[active]
        value, which = prove(active, at)
        value = value.nan_to_num(nan=0, posinf=torch.inf).clamp(min=0)
        proved = value >= at
        better = active[proved]
        low[better], blocking[better] = at[proved], which[proved]
        low[better[at[proved] >= limit[better]]] = torch.inf
        high[active] = high[active].minimum(torch.maximum(value, at))
        ratio = (value / at).log() - precision / 2
        before, last = last, (trial.log(), unknown.index_copy(0, active, ratio))
        active = active[(high > low * (1 + precision))[active]]
        trial = _between(low, high, before, last).minimum(limit)
    return low, blocking


def _between(low: Tensor, high: Tensor, before: Point, last: Point) -> Tensor:
    """The next radius: within the bounds, an eighth from either."""
    start, end = low.log(), torch.where(high.isfinite(), high, FARTHER * low).log()
    (a, at_a), (b, at_b) = before, last
    crossing = torch.where((at_a - at_b).isfinite(), a + (b - a) * at_a / (at_a - at_b), torch.nan)
    crossing = torch.where(crossing.isfinite(), crossing, (start + end) / 2)
    margin = (end - start) / 8
    found: Tensor = torch.minimum(torch.maximum(crossing, start + margin), end - margin).exp()
    return found
