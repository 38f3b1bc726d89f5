"""Tables that no model made, with every kind of column."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from marginkit.kinds import Kind, Status
from marginkit.table.table import Column, MarginTable

ABOUT = {"dataset": {"name": "d", "split": "test", "fingerprint": "f"}, "threat": {"low": 0.0, "high": 1.0}}


def column(
    distance: Any,
    method: str = "deepfool",
    kind: Kind = Kind.UPPER,
    norm: str = "l2",
    layer: str = "input",
    options: dict[str, Any] | None = None,
    witness: np.ndarray | None = None,
) -> Column:
    """A column whose statuses follow from its distances."""
    distance = np.asarray(distance, float)
    vacuous = np.isinf(distance) if kind is not Kind.LOWER else np.zeros(len(distance), bool)
    status = np.select([distance <= 0, vacuous], [Status.MISCLASSIFIED, Status.EXHAUSTED], Status.OK)
    rival = np.zeros(len(distance), np.int32)
    return Column(method, norm, layer, kind, options or {}, distance, status.astype(np.uint8), rival, witness)


def exact(lower: Any, upper: Any, norm: str = "l2") -> tuple[Column, Column]:
    """The pair `exact.<norm>.lower`, `exact.<norm>.upper`."""
    return (
        replace(column(lower, "exact", Kind.EXACT, norm), end="lower"),
        replace(column(upper, "exact", Kind.EXACT, norm), end="upper"),
    )


def table(*columns: Column, wrong: Any = None, **changes: Any) -> MarginTable:
    """A table of these columns, on as many samples of three classes."""
    n = len(columns[0].distance)
    label = np.arange(n) % 3
    wrong = np.zeros(n, bool) if wrong is None else np.asarray(wrong)
    made: dict[str, Any] = {
        "index": np.arange(n),
        "label": label,
        "predicted": np.where(wrong, label + 1, label),
        "logit_margin": np.where(wrong, -1.0, 1.0),
        "columns": columns,
    }
    meta = changes.pop("meta", ABOUT)
    return MarginTable(**(made | changes)).with_meta(meta)


def model(n: int, seed: int, better: float = 1.0, images: bool = False, of: int = 0) -> MarginTable:
    """Every kind of answer for n samples: estimates at two layers, two searches, a certificate, a bracket.

    Args:
        n: samples.
        seed: of this model.
        better: what its distances are multiplied by.
        images: keep inputs and witnesses.
        of: seed of the samples, which models have in common.
    """
    common, own = np.random.default_rng([of, 1]), np.random.default_rng([seed, 2])
    truth = better * common.gamma(4, 0.2, n) * own.lognormal(0, 0.2, n)
    truth[own.random(n) < 0.05] = 0
    hashes = common.integers(2**63, size=n).astype(np.uint64)
    inputs = common.random((n, 1, 8, 8)).astype(np.float32) if images else None
    columns = []
    for norm, scale in (("l2", 1.0), ("linf", 0.12)):
        d = truth * scale
        found = np.where((own.random(n) < 0.05) & (d > 0), np.inf, d * own.uniform(1, 1.2, n))
        witness = None if inputs is None else np.clip(inputs + own.normal(0, 0.1, inputs.shape), 0, 1)
        for layer, factor in (("input", 1.1), ("hidden", 5.0)):
            estimate = np.where(d > 0, d * factor * own.lognormal(0, 0.1, n), -0.01)
            columns.append(column(estimate, "first_order", Kind.ESTIMATE, norm, layer))
        columns += [
            column(found, "deepfool", Kind.UPPER, norm, options={"steps": 50}, witness=witness),
            column(d * own.uniform(1, 1.1, n), "pgd", Kind.UPPER, norm),
            column(d * own.uniform(0.3, 0.9, n), "crown", Kind.LOWER, norm),
            column(d * 6, "nearest", Kind.UPPER, norm, "hidden"),
            *exact(d * 0.95, d, norm),
        ]
    return table(
        *columns,
        wrong=truth == 0,
        hash=hashes,
        input=inputs,
        meta={**ABOUT, "activation_variance": {"input": 4.0, "hidden": 9.0}},
    )
