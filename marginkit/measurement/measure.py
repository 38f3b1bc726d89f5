"""Measures a model: from what the user asks to the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from marginkit import defaults
from marginkit.data.choice import chosen
from marginkit.data.dataset import Bounds, Data, Properties, Source, refuse_empty
from marginkit.data.sources import load
from marginkit.distributed import ALONE, Ranks, find_device, processes
from marginkit.errors import UsageError
from marginkit.events import Event, Finished, Noted, NothingNew, OnEvent, both, unheard
from marginkit.guard.passes import Meter
from marginkit.measurement.assembly import Assembly
from marginkit.measurement.batch import BatchRunner, Clock
from marginkit.measurement.batch_size import checked, sized
from marginkit.measurement.describe import Description, completed, dependencies, provenance
from marginkit.measurement.event_log import EventLog
from marginkit.measurement.in_memory import run_in_memory
from marginkit.measurement.loader import Loader
from marginkit.measurement.plan import Plan, Shard
from marginkit.measurement.precision import Models
from marginkit.measurement.prepare import prepared
from marginkit.measurement.requests import build_requests
from marginkit.measurement.resumable import Job, run_resumable
from marginkit.measurement.settings import Execution, Kept, Measurement, Target
from marginkit.methods.asked import Asked
from marginkit.methods.configure import configure_methods
from marginkit.methods.constraints import FREE, Limits, principal_subspace, read_mask
from marginkit.models.digest import model_digest
from marginkit.models.loading import Loading, load_subject
from marginkit.table.reading import read
from marginkit.table.table import MarginTable
from marginkit.types import Method
from marginkit.versions import versions

LOOKED_AT = 3  # samples by which a model's layers are found


def measure(
    model: nn.Module,
    data: Data,
    methods: Mapping[str, Method] | Sequence[str] = defaults.METHODS,
    norms: Sequence[str] = defaults.NORMS,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    layers: Sequence[str] = defaults.LAYERS,
    seed: int = defaults.SEED,
    bounds: Bounds = defaults.BOUNDS,
    limits: Limits = FREE,
    search_at: Sequence[str] = defaults.SEARCH_AT,
    limit: int | None = None,
    first: int | None = None,
    device: Any = defaults.DEVICE,
    dtype: str | None = None,
    batch_size: int | Literal["auto"] = defaults.BATCH_SIZE,
    workers: int = defaults.WORKERS,
    shard: Shard = (1, 1),
    time_limits: Mapping[str, float] | None = None,
    witnesses: bool = False,
    checks: int = defaults.CHECKS,
    meta: Mapping[str, Any] | None = None,
    out: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    light: bool = False,
    on_event: OnEvent = unheard,
) -> MarginTable:
    """Measures every sample's distance with every method in every norm.

    Args:
        model: gives logits for raw inputs; is put in eval mode and left as it was.
        data: the samples.
        methods: names, as in `configure_methods`; or methods, by the name their columns are to have.
        norms: names from NORMS.
        options: of methods that are named, by their columns' names.
        layers: where named methods look that look at layers.
        seed: of named methods that draw random numbers, and of which samples a limit leaves.
        bounds: the box inputs live in, in raw units; None for no bound.
        limits: a mask, a subspace or a grid.
        search_at: layers at which searches run, as in `resolve_layers`.
        limit: only so many samples, spread evenly over the classes by the seed, for every model the same.
        first: only so many samples, the first.
        device: where to compute; the model is moved there. `auto` is the GPU where there is one.
        dtype: float32, float64 or bfloat16, with witnesses verified in float64; None for the model's own.
        batch_size: samples at a time; changes no result by more than rounding. `auto` takes the fastest of a
            short trial, or what the file to resume has.
        workers: processes that load images ahead.
        shard: (i, n), only the i-th of n runs of batches.
        time_limits: seconds by method's name, checked between batches; samples left get status TIMEOUT.
        witnesses: keep the adversarial inputs, and the inputs they come from.
        checks: on how many samples to check whether the measurement can be believed (docs/reliability.md);
            not of a shard.
        meta: provenance to keep in the table; by default the model's digest.
        out: write this file too, batch by batch; under torchrun all processes share the batches.
        resume: go on with what is unfinished there, or add what a finished file lacks.
        overwrite: replace what is there.
        light: return the table without inputs and witnesses, which may be more than memory holds.
        on_event: hears of the progress, of every batch's seconds, and of what went wrong.

    Returns:
        The table: the same with a file and without.

    Raises:
        MarginkitError: an unknown name, an empty limit, or inputs, labels and model that don't fit; or the
            file can't be written, is there already, or is of another measurement.
    """
    refuse_empty(data)
    common = {"layers": tuple(layers), "seed": seed}
    options = _at_properties(methods, options, data.properties)
    asked = Asked(_methods(methods, options, common), tuple(norms), bounds, limits, tuple(search_at))
    size = checked(batch_size, shard)
    plan = _plan(data, limit, first, seed, size or defaults.BATCH_SIZE, shard)
    chosen_by = {} if plan.chosen is None else {"choice": {"samples": plan.count, "seed": seed}}
    measurement = Measurement(
        asked,
        plan,
        Execution(find_device(device), dtype, workers, _known(time_limits or {}, asked)),
        Kept(
            {**(meta or {"model": model_digest(model)}), **chosen_by},
            witnesses,
            checks if shard[1] == 1 else 0,
            light,
        ),
        None if out is None else Target(Path(out), resume, overwrite),
    )
    with processes() if measurement.target else nullcontext(ALONE) as ranks:
        measurement = measurement.here(ranks)
        with prepared(model, measurement.execution.device, dtype) as models:
            loader = Loader.of(data, models.plain, measurement.execution.device)
            ((_, few, _),) = loader([range(min(LOOKED_AT, len(data)))])
            if remark := asked.left_out(models.plain, few):
                on_event(Noted(remark))
            if size is None:
                measurement = sized(measurement, models.search, few, ranks, on_event)
            return _run(measurement.resolved(models.plain, few), models, data, ranks, on_event)


def _run(
    measurement: Measurement, models: Models, data: Data, ranks: Ranks, on_event: OnEvent
) -> MarginTable:
    """From the first batch to the table, one step after the other."""
    asked, execution, kept = measurement.asked, measurement.execution, measurement.kept
    plan, target = measurement.plan, measurement.target
    heard = both(EventLog(target.path, ranks.rank), on_event) if target else on_event
    loader = Loader.of(data, models.plain, execution.device, execution.workers)
    requests, clock = build_requests(asked), Clock(execution.time_limits)
    runner = BatchRunner(models, requests, asked.limits, kept.witnesses, clock, heard, Meter(heard))
    description = Description(models.plain, loader, measurement, heard)
    about = provenance(data, measurement)
    if target is None:
        table = run_in_memory(plan, runner, loader)
        table = replace(table, provenance=completed(about, description.of(table)))
        heard(Finished(len(table), [column.name for column in table.columns]))
        return table.light() if kept.light else table
    job = Job(target, plan, requests, dependencies(about, measurement), about, kept.checks > 0)
    with job.alone(ranks):
        todo = run_resumable(job, runner, loader, ranks)
        if ranks.first and job.incomplete(todo):
            assembly = Assembly(job, todo)
            table = assembly.table()
            assembly.write(completed(table.provenance, description.of(table)))
            heard(Finished(len(table), [column.name for column in table.columns]))
    return read(target.path, light=kept.light)


def _methods(
    given: Mapping[str, Method] | Sequence[str],
    options: Mapping[str, Mapping[str, Any]] | None,
    common: Mapping[str, Any],
) -> Mapping[str, Method]:
    """Methods by their columns' names; those that are only named are made."""
    if not isinstance(given, Mapping):
        return configure_methods(given, options, common)
    if options:
        raise UsageError("options are for methods given by name; these methods have theirs already")
    return given


def _at_properties(
    given: Mapping[str, Method] | Sequence[str],
    options: Mapping[str, Mapping[str, Any]] | None,
    properties: Properties | None,
) -> Mapping[str, Mapping[str, Any]] | None:
    """The options, with the radii that the data's properties ask about for `verify`, where none are given."""
    if properties is None or isinstance(given, Mapping) or "verify" not in given:
        return options
    asked = {"radii": properties.radii, **(options or {}).get("verify", {})}
    return {**(options or {}), "verify": asked}


def _plan(data: Data, limit: int | None, first: int | None, seed: int, batch_size: int, shard: Shard) -> Plan:
    for what, count in (("a limit of", limit), ("the first", first)):
        if count is not None and count < 1:
            raise UsageError(f"{what} {count} leaves nothing to measure: give at least 1")
    if limit is not None and first is not None:
        raise UsageError("a limit spreads samples over the classes, the first are as they come: give one")
    if limit is None or limit >= len(data):
        return Plan(min(len(data), first or len(data)), batch_size, shard)
    return Plan(limit, batch_size, shard, tuple(chosen(data, limit, seed).tolist()))


def _known(time_limits: Mapping[str, float], asked: Asked) -> Mapping[str, float]:
    for name in time_limits:
        if name not in asked.methods:
            raise UsageError(
                f"a time limit is given for {name!r}; the methods are {', '.join(asked.methods)}"
            )
    return time_limits


def measure_file(
    model: str | Path,
    methods: Sequence[str] = defaults.METHODS,
    norms: Sequence[str] = defaults.NORMS,
    *,
    loading: Loading | None = None,
    dataset: str | None = None,
    source: Source | None = None,
    bounds: Bounds | None = None,
    mask: Path | None = None,
    subspace: int | None = None,
    levels: int | None = None,
    seed: int = defaults.SEED,
    device: str = defaults.DEVICE,
    command: Sequence[str] = (),
    on_event: OnEvent = unheard,
    **settings: Any,
) -> tuple[MarginTable, list[str]]:
    """`measure` of a checkpoint or another model, by default on the test split of the data it was trained on.

    Args:
        model: a checkpoint's path, or another spec, as in `marginkit.models.loading.load_subject`.
        methods: names from METHODS.
        norms: as in `measure`.
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
        on_event: as in `measure`.
        settings: what else `measure` takes.

    Returns:
        The table, and remarks for the user on how the model was loaded.

    Raises:
        MarginkitError: as `load_subject` and `measure`.
    """
    subject = load_subject(model, loading or Loading(), dataset, source, bounds)
    device = find_device(device)
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
    remarks = _Remarks(subject.remarks)
    table = measure(
        subject.model, subject.data, methods, norms,
        bounds=subject.bounds, limits=limits, meta=meta, seed=seed, device=device,
        on_event=both(remarks, on_event), **settings,
    )  # fmt: skip
    return table, remarks.lines


class _Remarks:
    """What the user should know, as it comes up."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Noted):
            self.lines.append(event.text)
        if isinstance(event, NothingNew):
            self.lines.append(f"{event.file} has every column asked for already: nothing was measured")


def _principal(data: Data, source: Source | None, count: int) -> Tensor:
    return principal_subspace(load(data.name, replace(source or Source(), split="train")), count)
