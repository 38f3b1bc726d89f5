"""The one loop over batches that measures a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from marginkit.activations import evaluating
from marginkit.checkpoint import Checkpoint, describe
from marginkit.checkpoint import load as load_checkpoint
from marginkit.data import Batch, Bounds, Data, Source, batches, load
from marginkit.errors import MarginkitError, UsageError
from marginkit.files import sha256
from marginkit.kinds import Kind
from marginkit.logits import check_scores, logit_margin
from marginkit.margins import METHODS
from marginkit.norms import NORMS
from marginkit.options import choose, configure
from marginkit.progress import Track, silent
from marginkit.table import INPUT, Column, MarginTable
from marginkit.types import Bracket, Estimate, Method, Threat
from marginkit.versions import versions


def measure(
    model: nn.Module,
    data: Data,
    methods: Mapping[str, Method],
    norms: Sequence[str] = ("l2", "linf"),
    *,
    bounds: Bounds = (0.0, 1.0),
    limit: int | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    workers: int = 0,
    witnesses: bool = False,
    meta: Mapping[str, Any] | None = None,
    track: Track = silent,
) -> MarginTable:
    """Measures every sample's distance with every method in every norm.

    Args:
        model: gives logits for raw inputs; is put in eval mode and left as it was.
        data: the samples.
        methods: by the name their columns are to have.
        norms: names from NORMS.
        bounds: the box inputs live in, in raw units; None for no bound.
        limit: only so many samples, the first.
        batch_size: samples at a time; changes no result by more than rounding.
        device: where to compute; the model is moved there.
        workers: processes that load images ahead.
        witnesses: keep the adversarial inputs.
        meta: provenance to keep in the table.
        track: shows progress.

    Raises:
        MarginkitError: an unknown norm, an empty limit, or inputs, labels and model that don't fit.
    """
    for norm in norms:
        if norm not in NORMS:
            raise UsageError(f"unknown norm {norm!r}; choose from {', '.join(NORMS)}")
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} leaves nothing to measure: give at least 1")
    model = model.to(device)
    positions = range(min(len(data), limit or len(data)))
    found = batches(data, batch_size, positions=positions, workers=workers)
    threats = [Threat(NORMS[norm], *bounds) for norm in norms]
    with evaluating(model):
        tables = [
            _batch(model, batch, methods, threats, witnesses)
            for batch in track(
                _moved(found, model, device), "measuring", math.ceil(len(positions) / batch_size)
            )
        ]
    about = {
        "dataset": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint},
        "threat": {"low": bounds[0], "high": bounds[1]},
    }
    whole = MarginTable.join(tables)
    return MarginTable(
        whole.index,
        whole.label,
        whole.predicted,
        whole.logit_margin,
        whole.columns,
        {**(meta or {}), **about},
    )


def _moved(found: Iterator[Batch], model: nn.Module, device: torch.device | str) -> Iterator[Batch]:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for index, x, y in found:
        yield index, x.to(device, dtype), y.to(device)


def _batch(
    model: nn.Module, batch: Batch, methods: Mapping[str, Method], threats: Sequence[Threat], witnesses: bool
) -> MarginTable:
    index, x, y = batch
    with torch.no_grad():
        scores = model(x)
    check_scores(scores, y)
    columns = [
        column
        for name, method in methods.items()
        for threat in threats
        for column in _columns(name, method, threat, method(model, x, y, threat), witnesses)
    ]
    margin, _ = logit_margin(scores, y)
    return MarginTable(
        _array(index), _array(y), _array(scores.argmax(1)), _array(margin.double()), tuple(columns)
    )


def _columns(
    name: str, method: Method, threat: Threat, answer: Bracket | Estimate, witnesses: bool
) -> Iterator[Column]:
    options = asdict(method)  # type: ignore[call-overload]
    options.pop("layers", None)  # each column says its own
    if isinstance(answer, Estimate):
        for i, layer in enumerate(answer.layers):
            numbers = (_array(part[:, i]) for part in (answer.distance, answer.status, answer.rival))
            distance, status, rival = numbers
            yield Column(name, threat.norm.name, layer, method.kind, options, distance, status, rival)
        return
    end = answer.lower if method.kind in (Kind.LOWER, Kind.SMOOTHED) else answer.upper
    distance, status, rival = (_array(part) for part in (end, answer.status, answer.rival))
    witness = _array(answer.witness) if witnesses and answer.witness is not None else None
    about = (name, threat.norm.name, INPUT, method.kind, options)
    yield Column(*about, distance, status, rival, witness, answer.note)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def configure_methods(
    names: Sequence[str],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    common: Mapping[str, Any] | None = None,
) -> dict[str, Method]:
    """Methods by name, each with its options.

    Args:
        names: from METHODS.
        options: by method; may be text.
        common: for every method that has an option of that name.

    Raises:
        UsageError: an unknown method or option, or options for a method that is not asked for.
    """
    options = options or {}
    for name in options:
        if name not in names:
            raise UsageError(
                f"options are given for {name!r}, which is not among the methods {', '.join(names)}"
            )
    found = {}
    for name in names:
        cls = choose(METHODS, "method", name)
        fields_ = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        shared = {key: value for key, value in (common or {}).items() if key in fields_}
        found[name] = configure(cls, name, {**shared, **options.get(name, {})})
    return found


def measure_file(
    path: str | Path,
    methods: Sequence[str],
    norms: Sequence[str] = ("l2", "linf"),
    *,
    layers: tuple[str, ...] = ("all",),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    architecture: tuple[str, Mapping[str, Any]] | None = None,
    dataset: str | None = None,
    source: Source | None = None,
    bounds: Bounds | None = None,
    seed: int = 0,
    device: str = "cpu",
    command: Sequence[str] = (),
    **settings: Any,
) -> tuple[MarginTable, list[str]]:
    """`measure` of a checkpoint, by default on the test split of the data it was trained on.

    Args:
        path: the checkpoint, or weights only.
        methods: names from METHODS.
        norms: as in `measure`.
        layers: for methods that look at layers.
        options: by method.
        architecture: name and options, for weights only.
        dataset: another data set than the checkpoint's.
        source: where to find it, and which split.
        bounds: another box than the checkpoint's.
        seed: for methods that draw random numbers.
        device: where to compute.
        command: to keep in the table.
        settings: what else `measure` takes.

    Returns:
        The table, and remarks for the user on how the checkpoint was read.

    Raises:
        MarginkitError: as `checkpoint.load`, `data.load` and `measure`; or the inputs do not fit the model.
    """
    path = Path(path)
    common = {"layers": layers, "seed": seed}
    chosen = configure_methods(methods, options or {}, common)
    checkpoint, data, remarks = _load(path, architecture, dataset, source, bounds)
    meta = {
        "command": list(command),
        "versions": versions(),
        "seed": seed,
        "device": device,
        "checkpoint": {"file": path.name, "sha256": sha256(path), **describe(checkpoint)},
    }
    box = checkpoint.bounds
    table = measure(checkpoint.model(), data, chosen, norms, bounds=box, meta=meta, device=device, **settings)
    return table, remarks


def _load(
    path: Path,
    architecture: tuple[str, Mapping[str, Any]] | None,
    dataset: str | None,
    source: Source | None,
    bounds: Bounds | None,
) -> tuple[Checkpoint, Data, list[str]]:
    guess: dict[str, Any] | None = None
    if architecture is not None:
        if dataset is None:
            raise UsageError(
                "--arch builds the model from the data set's shape and classes: give --dataset too"
            )
        data = load(dataset, source, bounds=bounds or (0.0, 1.0))
        guess = {
            "architecture": architecture[0],
            "options": dict(architecture[1]),
            "shape": data.shape,
            "classes": data.classes,
            "bounds": bounds or (0.0, 1.0),
        }
    checkpoint, remarks = load_checkpoint(path, guess)
    name = dataset or checkpoint.dataset.get("name")
    if name is None:
        raise UsageError(f"{path} does not say what it was trained on: give --dataset")
    checkpoint = replace(checkpoint, bounds=checkpoint.bounds if bounds is None else bounds)
    data = load(name, source, bounds=checkpoint.bounds)
    if data.shape != checkpoint.shape:
        raise MarginkitError(
            f"{name} has inputs {list(data.shape)}, but {path} takes {list(checkpoint.shape)}"
        )
    return checkpoint, data, remarks
