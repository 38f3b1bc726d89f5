"""The one loop over batches that measures a model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from marginkit.activations import evaluating, resolve_layers
from marginkit.data.dataset import Batch, Bounds, Data, Source, grouped
from marginkit.data.sources import load
from marginkit.distributed import ALONE, processes
from marginkit.errors import UsageError
from marginkit.events import Tell, Track, both, silent, unheard
from marginkit.guard.answer import original
from marginkit.guard.given import refuse_quantised
from marginkit.kinds import INPUT, Kind
from marginkit.measurement.activation_variance import activation_variance
from marginkit.measurement.batch import Work, out_of_memory
from marginkit.measurement.event_log import Journal
from marginkit.measurement.plan import Plan, Shard
from marginkit.measurement.precision import in_precision
from marginkit.measurement.requests import requests
from marginkit.measurement.resumable import Job
from marginkit.methods.configure import configure_methods
from marginkit.methods.constraints import FREE, Limits, principal_subspace, read_mask
from marginkit.models.loading import Loading, load_subject
from marginkit.norms import NORMS
from marginkit.reliability.examine import examine
from marginkit.table.attacks import record
from marginkit.table.provenance import Provenance
from marginkit.table.reading import read
from marginkit.table.records import Meta
from marginkit.table.table import MarginTable
from marginkit.table.verdicts import KEY
from marginkit.types import Method, Threat
from marginkit.versions import versions

Fetch = Callable[[Iterable[Sequence[int]]], Iterator[Batch]]
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
    dtype: str | None = None,
    time_limits: Mapping[str, float] | None = None,
    shard: Shard = (1, 1),
    out: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checks: int = 0,
    meta: Mapping[str, Any] | None = None,
    track: Track = silent,
    tell: Tell = unheard,
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
        dtype: float32, float64 or bfloat16, with witnesses verified in float64; None for the model's own.
        time_limits: seconds by method's name, checked between batches; samples left get status TIMEOUT.
        shard: (i, n), only the i-th of n runs of batches.
        out: write this file, batch by batch; under torchrun all processes share the batches.
        resume: go on with what is unfinished there, or add what a finished file lacks.
        overwrite: replace what is there.
        checks: on how many samples to check whether the measurement can be believed (docs/reliability.md);
            not of a shard.
        meta: provenance to keep in the table.
        track: shows progress.
        tell: hears of every batch's seconds, and of what went wrong, as events.

    Returns:
        The table; without inputs and witnesses where they are in a file.

    Raises:
        MarginkitError: an unknown norm, an empty limit, or inputs, labels and model that don't fit; or the
            file can't be written, is there already, or is of another measurement.
    """
    _check(methods, norms, limit, time_limits or {})
    plan = Plan(min(len(data), limit or len(data)), batch_size, shard)
    with processes() if out else nullcontext(ALONE) as ranks, evaluating(model):
        model = original(model).to(place := ranks.device(str(device)))
        refuse_quantised(model)
        models = in_precision(model, dtype)
        threats = [Threat(NORMS[norm], *bounds, limits.mask, limits.levels) for norm in norms]
        layers = resolve_layers(model, search_at)
        asked = requests(model, methods, threats, layers, limits.subspace is not None)
        hears = both(Journal(out, ranks.rank), tell) if out else tell
        work = Work(models, asked, limits, witnesses, time_limits or {}, hears)
        fetch = partial(_fetch, data, models.plain, place, workers)
        checks = 0 if shard[1] > 1 else checks
        judge = partial(
            examine, model=models.plain, data=data, methods=methods, bounds=bounds, limits=limits,
            samples=checks, device=place,
        )  # fmt: skip
        follows = partial(_describe, models.plain, fetch, Plan(min(len(data), SCALED_BY), batch_size), judge)
        about: Meta = {
            **(meta or {"model": _digest(model)}),
            "dataset": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint},
            "threat": {"low": bounds[0], "high": bounds[1], **limits.describe()},
            "batch_size": batch_size,
            **({"dtype": dtype} if dtype else {}),
            **({"shard": list(shard)} if shard[1] > 1 else {}),
        }
        if out is None:
            found = track(fetch(plan.groups.values()), "measuring", len(plan.groups))
            whole = MarginTable.join([work(batch) for batch in found])
            return whole.with_meta({**about, **follows(whole)})
        depends = {
            **Provenance.of(about).identity(),
            "samples": plan.count,
            "methods": {name: {"method": type(m).__name__, **asdict(m)} for name, m in methods.items()},  # type: ignore[call-overload]
            "norms": list(norms),
            "search_at": list(layers),
            "witnesses": witnesses,
            "device": torch.device(device).type,
            "versions": versions(),
        }
        job = Job(out, work, plan, depends, about, resume, overwrite, ranks, (KEY,) if checks else ())
        job(lambda groups: track(fetch(groups), "measuring", len(plan.groups)), follows)
    return read(out, light=True)


def _check(
    methods: Mapping[str, Method],
    norms: Sequence[str],
    limit: int | None,
    time_limits: Mapping[str, float],
) -> None:
    for norm in norms:
        if norm not in NORMS:
            raise UsageError(f"unknown norm {norm!r}; choose from {', '.join(NORMS)}")
    for name in time_limits:
        if name not in methods:
            raise UsageError(f"a time limit is given for {name!r}; the methods are {', '.join(methods)}")
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} leaves nothing to measure: give at least 1")


def _fetch(
    data: Data, model: nn.Module, device: str, workers: int, groups: Iterable[Sequence[int]]
) -> Iterator[Batch]:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    dtype = torch.promote_types(dtype, torch.float32)  # half precision would round the inputs
    for index, x, y in grouped(data, groups, workers=workers):
        yield index, x.to(device, dtype), y.to(device)


def _describe(
    model: nn.Module, fetch: Fetch, first: Plan, judge: Callable[[MarginTable], Meta], whole: MarginTable
) -> Meta:
    """What follows from the whole table: layers' scales, robust accuracies, whether it can be believed."""
    layers = tuple(dict.fromkeys(c.layer for c in whole.columns if c.kind is Kind.ESTIMATE))
    scales = {"activation_variance": _variance(model, fetch, first, layers)}
    return {**scales, **record(whole), **judge(whole)}


def _variance(model: nn.Module, fetch: Fetch, plan: Plan, layers: tuple[str, ...]) -> dict[str, float]:
    try:
        found = activation_variance(model, (x for _, x, _ in fetch(plan.groups.values())), layers)
        return {layer: value for layer, value in found.items() if math.isfinite(value)}
    except RuntimeError as error:
        if plan.batch_size < 2 or not out_of_memory(error):
            raise
    return _variance(model, fetch, Plan(plan.count, plan.batch_size // 2), layers)


def _digest(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers: which model this is, where no checkpoint says so."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    tell: Tell = unheard,
    **settings: Any,
) -> tuple[MarginTable, list[str]]:
    """`measure` of a checkpoint or another model, by default on the test split of the data it was trained on.

    Args:
        model: a checkpoint's path, or another spec, as in `marginkit.models.loading.load_subject`.
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
        tell: as in `measure`.
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

    def hear(event: str, **about: Any) -> None:
        if event == "nothing new":
            subject.remarks.append(
                f"{about['file']} has every column asked for already: nothing was measured"
            )

    table = measure(
        subject.model, subject.data, chosen, norms,
        bounds=subject.bounds, limits=limits, meta=meta, device=device, tell=both(tell, hear), **settings,
    )  # fmt: skip
    return table, subject.remarks


def _principal(data: Data, source: Source | None, count: int) -> Tensor:
    return principal_subspace(load(data.name, replace(source or Source(), split="train")), count)
