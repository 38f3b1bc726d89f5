"""The one loop over batches that measures a model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from marginkit.activations import evaluating, resolve_layers
from marginkit.data import Batch, Bounds, Data, Source, batches, load
from marginkit.errors import UsageError
from marginkit.kinds import Kind
from marginkit.limits import FREE, Limits, at_the_input, principal_subspace, read_mask
from marginkit.logits import check_scores, logit_margin, refuse_probabilities
from marginkit.methods import configure_methods
from marginkit.norms import NORMS
from marginkit.progress import Track, silent
from marginkit.reliability.examine import examine
from marginkit.statistics.attacks import attacked
from marginkit.subject import Loading, load_subject
from marginkit.table import INPUT, Column, MarginTable
from marginkit.types import Bracket, Estimate, Method, Threat
from marginkit.variance import activation_variance
from marginkit.versions import versions

SCALED_BY = 1000  # samples whose activations tell a layer's scale


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
    search_at: Sequence[str] = (INPUT,),
    limits: Limits = FREE,
    checks: int = 0,
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
        witnesses: keep the adversarial inputs, and the inputs they come from.
        search_at: layers at which searches run, as in `resolve_layers`.
        limits: a mask, a subspace or a grid.
        checks: on how many samples to check whether the measurement can be believed (docs/reliability.md).
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
    threats = [Threat(NORMS[norm], *bounds, limits.mask, limits.levels) for norm in norms]
    layers = resolve_layers(model, search_at)
    with evaluating(model):
        tables = [
            _batch(model, batch, methods, threats, witnesses, layers, limits)
            for batch in track(
                _moved(found, model, device), "measuring", math.ceil(len(positions) / batch_size)
            )
        ]
        whole = MarginTable.join(tables)
        estimated = tuple(dict.fromkeys(c.layer for c in whole.columns if c.kind is Kind.ESTIMATE))
        first = batches(data, batch_size, positions=range(min(len(data), SCALED_BY)))
        variance = activation_variance(model, (x for _, x, _ in _moved(first, model, device)), estimated)
    about: dict[str, Any] = {
        "activation_variance": variance,
        "dataset": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint},
        "threat": {"low": bounds[0], "high": bounds[1], **limits.describe()},
    }
    if robust := [asdict(row) for row in attacked(whole)]:
        about["robust_accuracy"] = robust
    about |= examine(whole, model, data, methods, bounds=bounds, limits=limits, samples=checks, device=device)
    return replace(whole, meta={**(meta or {}), **about})


def _moved(found: Iterator[Batch], model: nn.Module, device: torch.device | str) -> Iterator[Batch]:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for index, x, y in found:
        yield index, x.to(device, dtype), y.to(device)


def _batch(
    model: nn.Module,
    batch: Batch,
    methods: Mapping[str, Method],
    threats: Sequence[Threat],
    witnesses: bool,
    layers: Sequence[str],
    limits: Limits,
) -> MarginTable:
    index, x, y = batch
    with torch.no_grad():
        scores = model(x)
    check_scores(scores, y)
    refuse_probabilities(scores)
    columns: list[Column] = []
    for name, method in methods.items():
        for threat in threats:
            for layer in layers if method.kind is Kind.UPPER else (INPUT,):
                view = limits.view(model, x, threat, layer, method)
                answer = at_the_input(method, limits)(view.model, view.x, y, view.threat)
                columns += _columns(name, method, threat, layer, answer, view.restore if witnesses else None)
    margin, _ = logit_margin(scores, y)
    return MarginTable(
        _array(index),
        _array(y),
        _array(scores.argmax(1)),
        _array(margin.double()),
        tuple(columns),
        hash=_hashes(x),
        input=_array(x.float()) if witnesses else None,
    )


def _hashes(x: Tensor) -> np.ndarray:
    """64 bits of each input's BLAKE2b, of its values in float32: the same input has the same everywhere."""
    rows = _array(x.float())
    found = [hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)


def _columns(
    name: str,
    method: Method,
    threat: Threat,
    layer: str,
    answer: Bracket | Estimate,
    restore: Callable[[Tensor], Tensor] | None,
) -> Iterator[Column]:
    options = asdict(method)  # type: ignore[call-overload]
    options.pop("layers", None)  # each column says its own
    if isinstance(answer, Estimate):
        for i, layer in enumerate(answer.layers):
            numbers = (_array(part[:, i]) for part in (answer.distance, answer.status, answer.rival))
            distance, status, rival = numbers
            yield Column(name, threat.norm.name, layer, method.kind, options, distance, status, rival)
        return
    proved = (Kind.LOWER, Kind.SMOOTHED)
    ends = {layer: answer.lower if method.kind in proved else answer.upper}
    if method.kind is Kind.EXACT:  # two columns, as if they were two layers
        ends = {"lower": answer.lower, "upper": answer.upper}
    for place, end in ends.items():
        distance, status, rival = (_array(part) for part in (end, answer.status, answer.rival))
        witness = None
        if restore is not None and answer.witness is not None and place != "lower":
            witness = _array(restore(answer.witness))
        about = (name, threat.norm.name, place, method.kind, options)
        yield Column(*about, distance, status, rival, witness, answer.note)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def measure_file(
    model: str | Path,
    methods: Sequence[str],
    norms: Sequence[str] = ("l2", "linf"),
    *,
    layers: tuple[str, ...] = ("all",),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    loading: Loading | None = None,
    dataset: str | None = None,
    source: Source | None = None,
    bounds: Bounds | None = None,
    mask: Path | None = None,
    subspace: int | None = None,
    levels: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    command: Sequence[str] = (),
    **settings: Any,
) -> tuple[MarginTable, list[str]]:
    """`measure` of a checkpoint or another model, by default on the test split of the data it was trained on.

    Args:
        model: a checkpoint's path, or another spec, as in `marginkit.subject.load_subject`.
        methods: names from METHODS.
        norms: as in `measure`.
        layers: for methods that look at layers.
        options: by method.
        loading: what else loading the model takes.
        dataset: another data set than the checkpoint's.
        source: where to find it, and which split.
        bounds: another box than the checkpoint's.
        mask: a .npy file that says which features may change.
        subspace: measure within so many principal directions of the training split.
        levels: witnesses lie on a grid of so many steps.
        seed: for methods that draw random numbers.
        device: where to compute.
        command: to keep in the table.
        settings: what else `measure` takes.

    Returns:
        The table, and remarks for the user on how the model was loaded.

    Raises:
        MarginkitError: as `load_subject` and `measure`.
    """
    common = {"layers": layers, "seed": seed}
    chosen = configure_methods(methods, options or {}, common)
    subject = load_subject(model, loading or Loading(), dataset, source, bounds)
    meta = {
        "command": list(command),
        "versions": versions(),
        "seed": seed,
        "device": device,
        "checkpoint": subject.about,
    }
    limits = Limits(
        mask=None if mask is None else read_mask(mask, subject.data.shape),
        subspace=None if subspace is None else _principal(subject.data, source, subspace),
        levels=levels,
    )
    table = measure(
        subject.model, subject.data, chosen, norms,
        bounds=subject.bounds, limits=limits, meta=meta, device=device, **settings,
    )  # fmt: skip
    return table, subject.remarks


def _principal(data: Data, source: Source | None, count: int) -> Tensor:
    return principal_subspace(load(data.name, replace(source or Source(), split="train")), count)
