"""The nearest adversarial input that can be found: many starts, refined side by side, the worse dropped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from marginkit.errors import UsageError
from marginkit.kinds import Kind
from marginkit.logits import Labels
from marginkit.methods.search.faster import through_folded
from marginkit.methods.search.fewest import STEPS, fewest
from marginkit.methods.search.linearisation import linearise
from marginkit.methods.search.nearing import nearing
from marginkit.methods.search.polishing import polish
from marginkit.methods.search.refinement import Attempts, refine
from marginkit.methods.search.starts import SLOW, Start, attempts
from marginkit.methods.search.verification import bracket, is_adversarial, shorten
from marginkit.norms import L1, L2, LINF, Vectors, dot
from marginkit.options import choose
from marginkit.types import Bracket, Threat

Effort = Literal["fast", "balanced", "tight", "thorough", "exhaustive"]
Stage = tuple[int, int, float]  # steps; then attempts kept a sample; within which factor of its best

IDLE = {"exhaustive": 40}  # rounds of iterated local search without gain, by the effort


@dataclass(frozen=True)
class NearestOptions:
    """Every option of `Nearest`, which describes them."""

    effort: Effort = "balanced"
    rivals: int = 4
    starts: tuple[str, ...] = ("denser:0", "own:0", "input:1")
    stages: tuple[Stage, ...] = ((6, 1, 1.0), (15, 1, 1.0))
    l1_stages: tuple[Stage, ...] = ()
    slow: int = 0
    memory: float = 0.0
    units: int = 0
    precision: float = 2**-10


NINE = (  # in the order in which they are worth their passes (tests/benchmarks/choose_starts.py)
    "path:50", "noise:2", "linf:0", "linf:1", "noise:0", "l2:2", "noise:3", "l2:3", "noise:1",
)  # fmt: skip
EFFORTS: dict[str, NearestOptions] = {
    "fast": NearestOptions("fast", rivals=3, starts=("denser:0",), stages=((10, 1, 1.0),)),
    "balanced": NearestOptions(),
    "tight": NearestOptions(
        "tight",
        rivals=9,
        starts=NINE,
        stages=((15, 4, 2.0), (20, 1, 1.0), (40, 1, 1.0)),
        slow=40,
        memory=0.3,
        units=512,
        precision=2**-14,
    ),
    "thorough": NearestOptions(
        "thorough",
        rivals=9,
        starts=(*NINE, "l1:0", "linf:2", "l2:0", "l1:2"),
        stages=((15, 6, 2.0), (20, 3, 1.1), (60, 1, 1.0)),
        l1_stages=((15, 13, 2.0), (20, 8, 1.5), (40, 3, 1.1)),
        slow=60,
        memory=0.3,
        units=2048,
        precision=2**-14,
    ),
}
EFFORTS["exhaustive"] = replace(EFFORTS["thorough"], effort="exhaustive")


class Nearest(NearestOptions):
    """The nearest adversarial input of many starts, refined side by side inside the box.

    A start is the crossing of one rival's boundary, met by DeepFool in the geometry of one norm; or the
    input itself; or random noise. Its displacement is then shortened by descent of the logit margin on a
    sphere that follows the boundary (`refine`), in stages after each of which only the best attempts of
    each sample go on. With effort `exhaustive` an iterated local search then looks in ever smaller balls,
    one sample at a time. Small ReLU networks are polished: the linear region of the witness is solved
    exactly. In L0 the search is `fewest`: there the effort says how many steps, and only `rivals` counts
    besides. The answer is an upper end: an adversarial input was found there.

    Attributes:
        effort: `fast`, `balanced`, `tight`, `thorough` or `exhaustive`; sets every other option that is not
            given. A sample costs about 20, 45, 370 and 620 passes forward and back, in L1 `tight` 410 and
            `thorough` 900; `exhaustive` 25,000 and more on top.
        rivals: how many to linearise at the input, those of largest logit.
        starts: `l1:RANK`, `l2:RANK`, `linf:RANK` (the rank-nearest boundary, met in that geometry),
            `own:RANK` (in that of the norm measured), `denser:RANK` (in that of the next larger exponent:
            l2 for l1, else linf), `input:RATE`, `across:RATE` (from the input, with RATE
            times the usual step size; `across` along the steepest direction of another norm), `path:STEPS`
            (a long path with momentum against a penalty on the L2 distance), `noise:SEED`.
        stages: (steps, attempts kept a sample afterwards, within which factor of its best), in turn.
        l1_stages: those in L1; none: `stages`. There attempts keep falling for long, and change order late.
        slow: steps of a last stage in L1, at `SLOW` of the usual step size; 0 for none.
        memory: in Linf, the share that former gradients have in the direction of a step, 0 or more and less
            than 1. The gradient's signs, which are the step there, flip where the boundary kinks.
        units: polish networks of at most so many ReLUs; 0 for none.
        precision: of the last bisection, relative to the distance.
    """

    kind: ClassVar[Kind] = Kind.UPPER

    def __init__(
        self,
        effort: Effort = "balanced",
        rivals: int | None = None,
        starts: tuple[str, ...] | None = None,
        stages: tuple[Stage, ...] | None = None,
        l1_stages: tuple[Stage, ...] | None = None,
        slow: int | None = None,
        memory: float | None = None,
        units: int | None = None,
        precision: float | None = None,
    ) -> None:
        """The effort's options, but for those given: so the options in a file are those that were used.

        Stages that are given are L1's too.
        """
        options: dict[str, Any] = {
            "rivals": rivals, "starts": starts, "stages": stages,
            "l1_stages": () if l1_stages is None and stages is not None else l1_stages, "slow": slow,
            "memory": memory, "units": units, "precision": precision,
        }  # fmt: skip
        given = {name: value for name, value in options.items() if value is not None}
        super().__init__(**vars(replace(choose(EFFORTS, "effort", effort), **given)))
        for start in self.starts:
            Start.parse(start, L2)
        every = (*self.stages, *self.l1_stages)
        if not self.starts or not self.stages or any(steps < 1 or keep < 1 for steps, keep, _ in every):
            raise UsageError(
                "nearest needs at least one start and one stage, of at least one step and attempt"
            )
        if self.slow < 0:
            raise UsageError(f"nearest cannot take slow {self.slow} steps; give 0 for none, or more")
        if not 0 <= self.memory < 1:
            raise UsageError(f"nearest cannot have memory {self.memory}; give 0 for none, or less than 1")

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The verified bracket [0, found]."""
        return bracket(model, x, y, threat, through_folded(self._search), counting=True)

    def _search(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Vectors:
        if not threat.norm.is_norm:
            return fewest(model, x, y, threat, STEPS[self.effort], self.rivals)
        starts = [Start.parse(text, threat.norm) for text in self.starts]
        pool = attempts(model, x, y, threat, list(dict.fromkeys(starts)), self.rivals)
        memory = self.memory if threat.norm is LINF else 0.0
        for steps, keep, within in (self.l1_stages if threat.norm is L1 else ()) or self.stages:
            rows = torch.arange(len(pool), device=x.device)
            parts = torch.split(rows, len(x))  # memory as of one attempt a sample
            pool = Attempts.join([refine(model, x, y, threat, pool[part], steps, memory) for part in parts])
            pool = pool[pool.survivors(len(x), keep, within)]
            pool.rewind()
        pool = pool[pool.survivors(len(x), 1, 1.0)]
        if self.slow and threat.norm is L1:
            pool = refine(model, x, y, threat, replace(pool, rate=SLOW * pool.rate), self.slow)
        pool = pool[pool.best.isfinite()]
        witness = torch.full_like(x, torch.nan)
        witness[pool.owner] = threat.clip(x[pool.owner], x[pool.owner] + pool.shortest)
        witness = _project(model, x, y, threat, witness)
        witness = shorten(model, x, y, threat, witness, self.precision, first=2**-5)
        if self.effort in IDLE:
            witness = nearing(model, x, y, threat, witness, IDLE[self.effort], self.precision)
        return polish(model, x, y, threat, witness, self.units) if self.units else witness


def _project(model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Vectors) -> Vectors:
    """The nearest points of the boundaries linearised at the witnesses, where adversarial and nearer.

    Exact where the classifier is linear.
    """
    found = (~witness.flatten(1).isnan().any(1)).nonzero().squeeze(1)
    if not len(found):
        return witness
    here, origin = witness[found], x[found]
    _, drop, gradient = linearise(model, here, y[found], 1)
    normal = gradient.squeeze(1)
    point = threat.clip(
        origin,
        origin
        + threat.norm.reach(normal, -drop.squeeze(1) + dot(normal, here - origin), *threat.room(origin)),
    )
    nearer = threat.norm.length(point - origin) < threat.norm.length(here - origin)
    nearer &= is_adversarial(model, point, y[found])
    witness[found[nearer]] = point[nearer]
    return witness
