"""DATASETS: where labelled samples come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marginkit.data.dataset import Bounds, Data, Source
from marginkit.errors import MarginkitError, UsageError
from marginkit.files.npy import read_npz
from marginkit.files.untrusted import printable


@dataclass(frozen=True)
class _InMemory:
    """Bytes stand for 0..1, as everywhere in torchvision; floats for themselves."""

    array: np.ndarray

    def __call__(self, positions: list[int]) -> Tensor:
        chosen = torch.from_numpy(self.array[positions])
        return chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float()


@dataclass(frozen=True)
class _Images:
    folder: Any  # torchvision's ImageFolder, untyped

    def __call__(self, positions: list[int]) -> Tensor:
        images = [self._image(position) for position in positions]
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) > 1:
            raise MarginkitError(f"images have several sizes, {sorted(sizes)}: give --image-size")
        return torch.stack(images)

    def _image(self, position: int) -> Tensor:
        try:
            image: Tensor = self.folder[position][0]
        except Exception as error:  # a broken picture fails in any of Pillow's ways
            path = self.folder.samples[position][0]
            reason = printable(str(error).partition("\n")[0])
            raise MarginkitError(f"{path} is not a picture that can be read: {reason}") from error
        return image


def _in_memory(spec: str, split: str, x: np.ndarray, y: np.ndarray, classes: int | None = None) -> Data:
    digest = hashlib.sha256(f"{x.dtype.str}{x.shape}".encode())
    digest.update(np.ascontiguousarray(x).data)
    labels = y.astype(np.int64)
    digest.update(labels.data)
    known = classes if classes is not None else int(labels.max(initial=-1)) + 1
    return Data(spec, split, _InMemory(x), labels, x.shape[1:], known, digest.hexdigest())


def _digits(spec: str, source: Source) -> Data:
    """Scikit-learn's 1,797 digits of 8x8; every fifth of each class is for testing."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    place = np.array([np.count_nonzero(y[:i] == y[i]) for i in range(len(y))])  # among those of its class
    chosen = (place % 5 == 4) == (source.split == "test")
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return _in_memory(spec, source.split, x[chosen], y[chosen], 10)


def _torchvision(class_name: str, classes: int) -> Callable[[str, Source], Data]:
    def load_torchvision(spec: str, source: Source) -> Data:
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
        return _in_memory(spec, source.split, x, np.asarray(labels), classes)

    return load_torchvision


def _imagefolder(spec: str, source: Source) -> Data:
    """DIR/<split>/CLASS/*.png (or DIR/val for test), or DIR/CLASS/*.png for every split."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    top = Path(source.argument)
    folders = [top / name for name in ((source.split, "val") if source.split == "test" else (source.split,))]
    root = next((folder for folder in folders if folder.is_dir()), top)
    size = source.image_size
    square = [transforms.Resize(size), transforms.CenterCrop(size)] if size else []
    try:
        folder = ImageFolder(str(root), transforms.Compose([*square, transforms.ToTensor()]))
    except OSError as error:
        raise MarginkitError(f"{root} has no folders of images, one a class: {error}") from error
    files = [
        (Path(path).relative_to(root).as_posix(), Path(path).stat().st_size, y) for path, y in folder.samples
    ]
    digest = hashlib.sha256(repr((files, size)).encode()).hexdigest()
    labels = np.array(folder.targets, np.int64)
    return Data(
        spec, source.split, _Images(folder), labels, tuple(folder[0][0].shape), len(folder.classes), digest
    )


def _npz(spec: str, source: Source) -> Data:
    """Arrays x and y; x_test and y_test, where there are such, for the split `test`."""
    path = Path(source.argument)
    arrays = read_npz(path)
    suffix = "_test" if source.split == "test" and "x_test" in arrays else ""
    for key in (f"x{suffix}", f"y{suffix}"):
        if key not in arrays:
            raise MarginkitError(
                f"{path} has the arrays {sorted(arrays)} and lacks {key!r}: expected x and y"
            )
    x, y = arrays[f"x{suffix}"], arrays[f"y{suffix}"]
    if x.dtype.kind not in "fiu" or x.ndim < 2:
        raise MarginkitError(f"{path}: x is {x.dtype} {x.shape}; expected numbers of shape [n, ...]")
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise MarginkitError(f"{path}: y is {y.dtype} {y.shape}; expected integers of shape [{len(x)}]")
    return _in_memory(spec, source.split, x, y)


NEEDS_ARGUMENT = {"npz": "npz:FILE", "imagefolder": "imagefolder:DIR"}

DATASETS: dict[str, Callable[[str, Source], Data]] = {
    "digits": _digits,
    "mnist": _torchvision("MNIST", 10),
    "fashion-mnist": _torchvision("FashionMNIST", 10),
    "kmnist": _torchvision("KMNIST", 10),
    "cifar10": _torchvision("CIFAR10", 10),
    "cifar100": _torchvision("CIFAR100", 100),
    "svhn": _torchvision("SVHN", 10),
    "imagefolder": _imagefolder,
    "npz": _npz,
}


def _check(data: Data, bounds: Bounds) -> None:
    if not len(data):
        raise MarginkitError(f"{data.name} ({data.split}) has no samples")
    if data.labels.min() < 0:
        raise MarginkitError(f"{data.name} has the label {data.labels.min()}: labels must count from 0")
    if not isinstance(data.inputs, _InMemory):
        return
    x = data.inputs.array
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).reshape(len(x), -1).any(1).argmax())
        raise MarginkitError(f"{data.name} has NaN or infinite values, first in sample {bad}: clean the data")
    unit = 255 if x.dtype == np.uint8 else 1
    smallest, largest = x.min() / unit, x.max() / unit
    low = -np.inf if bounds[0] is None else bounds[0]
    high = np.inf if bounds[1] is None else bounds[1]
    if smallest < low or largest > high:
        raise MarginkitError(
            f"{data.name} runs from {smallest:.4g} to {largest:.4g}, outside the box [{low:g}, {high:g}]:"
            " scale it, or give the box it lives in with --bounds LOW,HIGH or --bounds none"
        )


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
    source = Source(argument, source.split, source.root, source.download, source.image_size)
    data = DATASETS[name](spec, source)
    _check(data, bounds)
    return data
