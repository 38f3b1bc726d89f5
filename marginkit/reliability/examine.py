"""Runs the checks on a few samples of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from marginkit import defaults
from marginkit.activations import evaluating
from marginkit.data.dataset import Data
from marginkit.errors import UsageError
from marginkit.events import Checked, OnEvent, tracked, unheard
from marginkit.guard.answer import original
from marginkit.guard.passes import Meter
from marginkit.guard.precision import precise
from marginkit.kinds import INPUT, Kind
from marginkit.methods.asked import Asked
from marginkit.methods.torchattacks import TorchAttack
from marginkit.norms import L2, NORMS
from marginkit.reliability import behaviour, gradients, searches
from marginkit.reliability.probe import Probe
from marginkit.table.brackets import LIMIT, ends, limit
from marginkit.table.table import Column, MarginTable
from marginkit.table.verdicts import KEY, Verdict
from marginkit.types import Method

NEARER = 0.8  # a search without gradients has to be nearer by a fifth to count
Figure = float | Mapping[str, float]  # one, or one a norm or column

# Sample-passes that the checks of the default number of samples may spend together, and some of them each.
PASSES = 3000
LIMITS = {"unbounded-fails": 300, "gradient-free-wins": 800, "not-converged": 900}

PROBES: dict[str, Callable[[Probe], Figure]] = {  # what is cheap comes first
    "randomised": behaviour.randomised,
    "batch-dependent": behaviour.batch_dependent,
    "batch-statistics": behaviour.batch_statistics,
    "probabilities": behaviour.probabilities,
    "missing-classes": behaviour.missing_classes,
    "imprecise": behaviour.imprecise,
    "no-gradient": gradients.no_gradient,
    "misleading-gradient": gradients.misleading_gradient,
    "optimistic-first-order": gradients.optimistic_first_order,
    "not-monotone": searches.not_monotone,
    "unbounded-fails": searches.unbounded_fails,
    "gradient-free-wins": searches.gradient_free_wins,
    "not-converged": searches.not_converged,
    "eight-bit": searches.eight_bit,
}


def examine(
    table: MarginTable,
    model: nn.Module,
    data: Data,
    asked: Asked,
    *,
    samples: int = defaults.CHECKS,
    seed: int = 0,
    on_event: OnEvent = unheard,
) -> dict[str, Any]:
    """The checks' verdicts, as they are to stand in the table's meta; empty where nothing was checked.

    Args:
        table: what was measured, or part of it.
        model, data, asked: what it was measured with, and how; the data go where the model is.
        samples: how many correctly classified samples to look at, spread evenly over the table; 0 for no
            checks.
        seed: of everything random; the same seed gives the same verdicts.
        on_event: hears of the progress, check by check and meanwhile.
    """
    if samples < 0:
        raise UsageError(f"{samples} samples can't be checked: give 0 for no checks, or more")
    chosen = _spread(np.flatnonzero(table.predicted == table.label), samples)
    if not len(chosen):
        return {}
    few = table.rows(chosen)
    names = tracked(PROBES, "checks", len(PROBES), on_event)
    with evaluating(model), torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            probe = _probe(few, model, data, asked, seed, on_event)
            probe.absent = _absent(table, data)
        except Exception as error:  # whatever fails here, the measurement is worth more
            found = [Verdict.of_crash(name, error) for name in names]
        else:
            with probe.meter.counting(original(probe.model)):
                found = [_told(name, probe, on_event) for name in names]
    return {KEY: {"samples": len(chosen), "seed": seed, "verdicts": [asdict(verdict) for verdict in found]}}


def _told(name: str, probe: Probe, on_event: OnEvent) -> Verdict:
    """The check's verdict, when the listener has heard of it."""
    grown = max(1.0, len(probe.x) / defaults.CHECKS)
    left = grown * PASSES - probe.meter.total
    probe.meter.begin(name, min(left, grown * LIMITS[name]) if name in LIMITS else left)
    found = _judged(name, PROBES[name], probe)
    on_event(Checked(**asdict(found), passes=round(probe.meter.spent)))
    return found


def _absent(table: MarginTable, data: Data) -> float:
    """The share of the data's classes that the table lacks; NaN where it has fewer samples than classes."""
    classes = np.unique(data.labels)
    return math.nan if len(table) < len(classes) else float(1 - np.isin(classes, table.label).mean())


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """So many of the rows, evenly: data sets are often sorted by class."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(int)] if count else rows[:0]


def _searched(table: MarginTable, asked: Asked) -> list[Column]:
    """What searches in a norm found at the input; in a subspace they say nothing of all directions."""
    if asked.limits.subspace is not None:
        return []
    kept = (c for c in table.columns if c.kind is Kind.UPPER and c.layer == INPUT and c.norm in NORMS)
    return [column for column in kept if column.method in asked.methods]


def _probe(
    table: MarginTable, model: nn.Module, data: Data, asked: Asked, seed: int, on_event: OnEvent
) -> Probe:
    methods = asked.methods
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    dtype = torch.promote_types(like.dtype, torch.float32)
    given = precise(model, data.inputs(table.index.tolist()).to(like.device, dtype))
    model, x = given.model, given.x
    y = torch.from_numpy(table.label.astype(np.int64)).to(like.device)
    upper = _searched(table, asked)
    known = {c.norm: ends(table, c.norm) for c in upper}
    threats = {norm: asked.threat(norm) for norm in known or _norms(table)}

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(values, np.float64)).to(like.device)

    found = {norm: tensor(e.upper) for norm, e in known.items()}
    return Probe(
        model, x, y, threats,
        searches={c.method: methods[c.method] for c in upper},
        found=found,
        claimed={n: _claimed(d, [c for c in upper if c.norm == n], methods) for n, d in found.items()},
        before={c.name: tensor(c.distance) for c in upper},
        estimated={c.norm: tensor(c.distance) for c in table.columns if _estimates(c)},
        kept={c.name: torch.from_numpy(c.witness).to(x) for c in upper if c.witness is not None},
        meter=Meter(on_event),
        seed=seed,
    )  # fmt: skip


def _norms(table: MarginTable) -> list[str]:
    """Those measured in that have a geometry, or some such."""
    return [norm for norm in dict.fromkeys(c.norm for c in table.columns) if norm in NORMS] or [L2.name]


def _estimates(column: Column) -> bool:
    return column.kind is Kind.ESTIMATE and column.layer == INPUT


def _claimed(found: Tensor, columns: Sequence[Column], methods: Mapping[str, Method]) -> Tensor:
    """Searches claim what is nearer by a fifth; attacks at radii, the largest at which they failed.

    Attacks of torchattacks do not say how far they look: their failures claim nothing.
    """
    own = [column for column in columns if not isinstance(methods[column.method], TorchAttack)]
    if any(limit(column) is None for column in own):
        return NEARER * found
    radii = sorted({float(eps) for column in own for eps in np.atleast_1d(column.options[LIMIT])})
    failed = [torch.where(found > radius, radius, 0.0) for radius in radii]
    return torch.stack(failed).amax(0) if failed else torch.zeros_like(found)


def _judged(name: str, check: Callable[[Probe], Figure], probe: Probe) -> Verdict:
    """The largest figure counts. A check that crashes is a doubt itself."""
    if name not in BEFORE_ANY_SEARCH and not probe.found:
        return Verdict.of(name, None, note="no search at the input was measured")
    try:
        figure = check(probe)
    except Exception as error:  # a model's own may be anything
        return Verdict.of_crash(name, error)
    if not isinstance(figure, Mapping):
        return Verdict.of(name, figure)
    known = {where: value for where, value in figure.items() if value == value}
    where = max(known, key=lambda key: known[key], default="")
    return Verdict.of(name, known.get(where), where)


BEFORE_ANY_SEARCH = (
    "randomised",
    "batch-dependent",
    "batch-statistics",
    "probabilities",
    "missing-classes",
    "imprecise",
    "no-gradient",
)
