"""Properties of networks as a data set: boxes become their centres, the class that is to stay the label."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from marginkit.data.dataset import Bounds, Data, Properties, Source
from marginkit.data.in_memory import in_memory
from marginkit.data.vnnlib import Instance, read_instance
from marginkit.errors import MarginkitError
from marginkit.files.untrusted import printable, refuse_path

ENDINGS = (".vnnlib", ".vnnlib.gz")
ROUNDING = 1e-6  # of the numbers in a file: what was lost when they were written


def vnnlib(spec: str, source: Source) -> Data:
    """The centres of the boxes of a file, of all files in a folder, or of a list (`instances.csv`).

    Each box has to be a cube, clipped to the bounds or not: then the Linf distance answers its property.
    """
    files = _files(Path(source.argument).expanduser(), source.model)
    instances = [read_instance(path) for path in files]
    first = instances[0]
    for one in instances:
        if (len(one.low), one.classes) != (len(first.low), first.classes):
            raise MarginkitError(
                f"{one.path} has {len(one.low)} inputs and {one.classes} classes, {first.path} has"
                f" {len(first.low)} and {first.classes}: measure them apart"
            )
    cubes = [cube(one, source.bounds) for one in instances]
    x = np.stack([centre for centre, _, _ in cubes])
    labels = np.array([one.label for one in instances], np.int64)
    data = in_memory(spec, source.split, x, labels, first.classes)
    inner, outer = (tuple(float(c[i]) for c in cubes) for i in (1, 2))
    among = " to ".join(dict.fromkeys(f"{end:.6g}" for end in (min(outer), max(outer))))
    note = f"{spec}: {len(files)} properties, each of a cube of radius {among} in linf"
    return replace(
        data, remarks=(note,), properties=Properties(tuple(str(path) for path in files), inner, outer)
    )


def cube(instance: Instance, bounds: Bounds) -> tuple[np.ndarray, float, float]:
    """The centre of a box, float32 [features], and the radii of cubes inside and around it.

    A side that is shorter than the longest one has to end at a bound: it was clipped there, and its other
    end tells the centre. Where both ends are clipped, any centre does.

    Raises:
        MarginkitError: the box is no cube, clipped or not.
    """
    low, high = instance.low, instance.high
    ends = [np.nan if end is None else end for end in bounds]
    near = ROUNDING * max(1.0, float(np.abs([low, high]).max()))
    if (beyond := np.flatnonzero((low < ends[0] - near) | (high > ends[1] + near))).size:
        i = int(beyond[0])
        raise MarginkitError(
            f"{instance.path}: X_{i} runs from {low[i]:.9g} to {high[i]:.9g}, beyond the bounds of inputs,"
            f" {bounds[0]} to {bounds[1]}: give that with --bounds LOW,HIGH or --bounds none"
        )
    down, up = np.abs(low - ends[0]) <= near, np.abs(high - ends[1]) <= near
    free = ~(down | up)
    half = (high - low) / 2
    radius = float((half[free] if free.any() else half).max())
    if not radius > 0:
        raise MarginkitError(f"{instance.path} has a box without room: expected one with low < high")
    centre = np.where(down & ~up, high - radius, np.where(up & ~down, low + radius, (low + high) / 2))
    slack = 100 * ROUNDING * radius + near
    inside = (centre >= low - slack) & (centre <= high + slack)
    whole = np.abs(half - radius) <= slack
    if wrong := np.flatnonzero(~(whole | ((down | up) & inside & (half <= radius + slack)))).tolist():
        i = wrong[0]
        raise MarginkitError(
            f"{instance.path}: X_{i} runs from {low[i]:.9g} to {high[i]:.9g},"
            f" others {radius:.9g} to either side:"
            " expected the same for all inputs, clipped to the bounds or not (--bounds LOW,HIGH or none)"
        )
    lowest, highest = (
        np.nan_to_num(end, nan=side) for end, side in zip(ends, (-np.inf, np.inf), strict=True)
    )
    kept = np.clip(centre, lowest, highest).astype(np.float32)
    below, above = kept.astype(np.float64) - low, high - kept.astype(np.float64)
    reach = np.concatenate([below[~down], above[~up]])
    outer = float(max(below.max(), above.max()))
    return kept, max(float(reach.min(initial=outer)), 0.0), outer


def _files(path: Path, model: str) -> list[Path]:
    """The files that are meant, in order."""
    if path.is_dir():
        found = sorted(p for p in path.rglob("*.vnnlib*") if p.name.endswith(ENDINGS))
        if not found:
            raise MarginkitError(f"{path} has no .vnnlib files")
        return found
    return _listed(path, model) if path.suffix == ".csv" else [path]


def _listed(path: Path, model: str) -> list[Path]:
    """The properties that a list has for the model: rows of network, property and seconds."""
    try:
        rows = [row for row in csv.reader(path.read_text("utf-8").splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MarginkitError(f"{path} is no list of instances: {printable(str(error))}") from error
    if not rows or any(len(row) < 2 for row in rows):
        raise MarginkitError(f"{path} is no list of instances; expected rows of network, property, seconds")
    networks = {Path(row[0].strip()).name.removesuffix(".gz") for row in rows}
    chosen = model if model in networks else next(iter(networks)) if len(networks) == 1 else None
    if chosen is None:
        raise MarginkitError(
            f"{path} is about {', '.join(sorted(map(printable, networks))[:6])}, not about the model"
            f" {model or '(none)'}: name the file as the list does, or list its rows alone"
        )
    found = []
    for row in rows:
        if Path(row[0].strip()).name.removesuffix(".gz") == chosen:
            refuse_path(row[1].strip(), f"{path} names {row[1].strip()[:80]!r}", "--vnnlib FILE")
            found.append(_there(path.parent, row[1].strip()))
    return found


def _there(folder: Path, name: str) -> Path:
    """A file that a list names: from its own folder or the one above, as it is or zipped."""
    for home in (folder, folder.parent):
        for ending in ("", ".gz"):
            if (found := home / f"{name}{ending}").is_file():
                return found
    return folder / name
