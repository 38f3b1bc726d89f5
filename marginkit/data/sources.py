"""DATASETS: where labelled samples come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from marginkit.data.boxes import vnnlib
from marginkit.data.dataset import Bounds, Data, Source
from marginkit.data.folders import Pictures, imagefolder
from marginkit.data.hugging_face import hugging_face
from marginkit.data.in_memory import InMemory, in_memory
from marginkit.errors import MarginkitError, UsageError
from marginkit.files.npy import npz_names, read_npz


def _digits(spec: str, source: Source) -> Data:
    """Scikit-learn's 1,797 digits of 8x8; every fifth of each class is for testing."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    place = np.array([np.count_nonzero(y[:i] == y[i]) for i in range(len(y))])  # among those of its class
    chosen = (place % 5 == 4) == (source.split == "test")
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return in_memory(spec, source.split, x[chosen], y[chosen], 10)


def _torchvision(class_name: str, classes: int) -> Callable[[str, Source], Data]:
    def load_torchvision(spec: str, source: Source) -> Data:
        """One of torchvision's, from `data_root`; fetched where that is asked for."""
        from torchvision import datasets

        which: dict[str, Any] = {"train": source.split == "train"}
        if class_name == "SVHN":
            which = {"split": source.split}
        try:
            found = getattr(datasets, class_name)(source.root, download=source.download, **which)
        except (RuntimeError, OSError) as error:
            raise MarginkitError(
                f"{spec} is not in {source.root}: add --download, or give its folder with --data-root"
            ) from error
        x = np.asarray(found.data)
        if x.ndim == 3:
            x = x[:, None]
        elif x.shape[-1] == 3 and class_name != "SVHN":
            x = x.transpose(0, 3, 1, 2)
        labels = found.labels if class_name == "SVHN" else found.targets
        return in_memory(spec, source.split, x, np.asarray(labels), classes)

    return load_torchvision


def _npz(spec: str, source: Source) -> Data:
    """Arrays by one of the usual pairs of names, those of the split first where there are such."""
    path = Path(source.argument).expanduser()
    names = npz_names(path)
    keys = _array_keys(path, names, source)
    arrays = read_npz(path, keys)
    x, y = arrays[keys[0]], arrays[keys[1]]
    if x.dtype.kind not in "fiub" or x.ndim < 2:
        raise MarginkitError(f"{path}: {keys[0]} is {x.dtype} {x.shape}; expected numbers of shape [n, ...]")
    labels, classes, remarks = _labels(path, keys[1], y, len(x))
    numbers = x.astype(np.float32) if x.dtype.kind == "b" else x
    return replace(in_memory(spec, source.split, numbers, labels, classes), remarks=remarks)


def _array_keys(path: Path, names: list[str], source: Source) -> tuple[str, str]:
    """The names of inputs and labels in a file."""
    asked = dict(source.array_keys)
    if unknown := [key for key in asked if key not in ("x", "y")]:
        raise UsageError(f"--array-keys sets {unknown[0]!r}; expected x=NAME,y=NAME")
    pairs = [(asked.get("x", "x"), asked.get("y", "y"))] if asked else ARRAY_KEYS
    for x, y in pairs:
        for form in (f"{{}}_{source.split}", f"{source.split}_{{}}", "{}"):
            if form.format(x) in names and form.format(y) in names:
                return form.format(x), form.format(y)
    missing = next((name for name in pairs[0] if name not in names), pairs[0][0])
    raise MarginkitError(
        f"{path} has the arrays {', '.join(names) or 'none'} and lacks {missing!r}: expected x and y, or say"
        " which they are with --array-keys x=NAME,y=NAME"
    )


def _labels(
    path: Path, key: str, y: np.ndarray, count: int
) -> tuple[np.ndarray, int | None, tuple[str, ...]]:
    """Labels as int64 [n], from whole numbers of any type or one-hot rows; their classes; and remarks."""
    found, classes = y, None
    remarks: tuple[str, ...] = ()
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if _one_hot(found):
        classes = found.shape[1]
        remarks = (f"{path}: {key} is one-hot, and stands for {classes} classes",)
        found = found.argmax(1)
    whole = found.dtype.kind in "iub" or (found.dtype.kind == "f" and (found == np.floor(found)).all())
    if not whole or found.shape != (count,):
        raise MarginkitError(f"{path}: {key} is {y.dtype} {y.shape}; expected integers of shape [{count}]")
    if len(found) and found.max() >= MOST_CLASSES:
        at = int(found.argmax())
        raise MarginkitError(
            f"{path}: sample {at} has the label {found[at]:.0f}; expected labels that count classes from 0,"
            f" at most {MOST_CLASSES:,} of them"
        )
    return found.astype(np.int64), classes, remarks


def _one_hot(y: np.ndarray) -> bool:
    return bool(
        y.ndim == 2
        and y.size
        and y.dtype.kind in "fiub"
        and ((y == 0) | (y == 1)).all()
        and (y.sum(1) == 1).all()
    )


MOST_CLASSES = 100_000
ARRAY_KEYS = [
    ("x", "y"),
    ("X", "y"),
    ("X", "Y"),
    ("images", "labels"),
    ("inputs", "labels"),
    ("inputs", "targets"),
    ("data", "labels"),
    ("data", "targets"),
    ("data", "target"),
]
NEEDS_ARGUMENT = {
    "npz": "npz:FILE",
    "imagefolder": "imagefolder:DIR",
    "vnnlib": "vnnlib:FILE",
    "hf": "hf:NAME",
}

DATASETS: dict[str, Callable[[str, Source], Data]] = {
    "digits": _digits,
    "mnist": _torchvision("MNIST", 10),
    "fashion-mnist": _torchvision("FashionMNIST", 10),
    "kmnist": _torchvision("KMNIST", 10),
    "cifar10": _torchvision("CIFAR10", 10),
    "cifar100": _torchvision("CIFAR100", 100),
    "svhn": _torchvision("SVHN", 10),
    "imagefolder": imagefolder,
    "npz": _npz,
    "vnnlib": vnnlib,
    "hf": hugging_face,
}


def _boxed(data: Data, bounds: Bounds) -> Data:
    """The data checked and scaled to the box: bytes are divided by 255 unless it reaches beyond 1."""
    if not len(data):
        raise MarginkitError(f"{data.name} ({data.split}) has no samples")
    if data.labels.min() < 0:
        raise MarginkitError(f"{data.name} has the label {data.labels.min()}: labels must count from 0")
    inputs = data.inputs
    unit = 255.0 if bounds[1] is not None and bounds[1] > 1 else 1.0
    if isinstance(inputs, Pictures):
        return replace(data, inputs=replace(inputs, unit=unit))
    if not isinstance(inputs, InMemory):
        return data
    remarks = list(data.remarks)
    if inputs.array.dtype == np.uint8:
        inputs = replace(inputs, unit=unit)
        if data.name.startswith("npz:"):
            how = "taken as they are" if unit == 255 else "divided by 255"
            remarks.append(f"the bytes of {data.name} are {how}, as the box says")
    box, more = _within(data.name, inputs.array, bounds, unit / 255 if inputs.array.dtype == np.uint8 else 1)
    return replace(data, inputs=replace(inputs, box=box), remarks=(*remarks, *more))


def _within(name: str, x: np.ndarray, bounds: Bounds, scale: float) -> tuple[Bounds | None, list[str]]:
    """The box to clip to where values are beyond it by a rounding error, and a remark on it."""
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).reshape(len(x), -1).any(1).argmax())
        raise MarginkitError(f"{name} has NaN or infinite values, first in sample {bad}: clean the data")
    smallest, largest = float(x.min()) * scale, float(x.max()) * scale
    low, high = (
        end if end is not None else edge for end, edge in zip(bounds, (-np.inf, np.inf), strict=True)
    )
    if smallest >= low and largest <= high:
        return None, []
    rounding = ROUNDING * max(1.0, *(abs(end) for end in bounds if end is not None))
    if smallest >= low - rounding and largest <= high + rounding:
        return bounds, [f"{name} reaches {max(low - smallest, largest - high):.2g} beyond the box: clipped"]
    rows = x.reshape(len(x), -1)
    at = int(rows.min(1).argmin() if low - smallest > largest - high else rows.max(1).argmax())
    raise MarginkitError(
        f"{name} runs from {_exact(smallest)} to {_exact(largest)}, outside the box [{_exact(low)},"
        f" {_exact(high)}], farthest in sample {at}: scale it, or give the box it lives in with --bounds"
        " LOW,HIGH or --bounds none"
    )


def _exact(value: float) -> str:
    """All the digits of a number in float32, which is what inputs are."""
    return f"{value:.9g}"


ROUNDING = 1e-6  # of the box's larger end: some units in the last place of float32


def load(spec: str, source: Source | None = None, *, bounds: Bounds = (0.0, 1.0)) -> Data:
    """The data set `NAME` or `NAME:ARGUMENT`.

    Args:
        spec: a name from DATASETS, with what it needs after a colon.
        source: where to find it, and which split.
        bounds: the box its inputs must lie in.

    Raises:
        MarginkitError: unknown, absent, empty, not numeric, NaN, outside the bounds, or wrongly labelled.
    """
    name, _, argument = spec.partition(":")
    source = source or Source()
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}; choose from {', '.join(DATASETS)}")
    if (name in NEEDS_ARGUMENT) != bool(argument):
        wanted = NEEDS_ARGUMENT.get(name, name)
        raise UsageError(f"{spec!r} is not a data set; expected {wanted!r}")
    source = replace(source, argument=argument, root=source.root.expanduser(), bounds=bounds)
    return _boxed(DATASETS[name](spec, source), bounds)
