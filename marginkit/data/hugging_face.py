"""Data sets of Hugging Face's library: saved in a folder, or in its cache."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from marginkit.data.dataset import Data, Source
from marginkit.data.folders import Pictures, kept_in_memory
from marginkit.data.in_memory import in_memory
from marginkit.errors import MarginkitError
from marginkit.files.untrusted import printable
from marginkit.versions import optional_package

INPUTS = ("image", "img", "images", "pixel_values", "x", "features", "input", "inputs", "data")
LABELS = ("label", "labels", "fine_label", "class", "target", "targets", "y")
SPLITS = {"test": ("test", "validation", "valid", "val"), "train": ("train",)}
ROWS = 1000  # at a time


@dataclass(frozen=True)
class Row:
    """One picture of a data set, which opens as a file does."""

    dataset: Any
    column: str
    position: int
    spec: str

    def __str__(self) -> str:
        return f"row {self.position} of {self.spec}"

    def open(self) -> Image.Image:
        """The picture."""
        found = self.dataset[self.position][self.column]
        if not isinstance(found, Image.Image):
            raise MarginkitError(f"{self} has no picture")
        return found


def hugging_face(spec: str, source: Source) -> Data:
    """`hf:FOLDER` of `save_to_disk`, or `hf:NAME` from the cache; with `/SPLIT` for another split."""
    library = optional_package("datasets", "datasets")
    dataset, split = _split(spec, _loaded(library, spec, source), source)
    x, y = _columns(spec, dataset, source)
    labels, names = _labels(spec, dataset, y)
    labels, names, remarks = _numbered(spec, labels, names, source.class_names)
    if isinstance(dataset.features[x], library.Image):
        found = _pictures(library, spec, dataset, x, labels, source)
    else:
        found = in_memory(spec, source.split, _array(spec, dataset, x), labels)
    classes = len(names) or found.classes
    note = (
        () if split in ("", source.split) else (f"{spec} has no split {source.split!r}: {split!r} is taken",)
    )
    return replace(found, classes=classes, class_names=names, remarks=(*note, *remarks))


def _loaded(library: Any, spec: str, source: Source) -> Any:
    """The data set, or all its splits."""
    name = source.argument
    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            return library.load_from_disk(str(folder))
        name, _, last = name.rpartition("/")
        name, split = (name, last) if name and last in _KNOWN else (source.argument, None)
        with _offline(source.download):
            return library.load_dataset(name, split=split)
    except Exception as error:  # the library's own, and those of all that it reads with
        reason = printable((str(error).splitlines() or [""])[0])[:200]
        raise MarginkitError(
            f"{spec} can't be read ({type(error).__name__}: {reason}): give a folder that save_to_disk wrote,"
            " or a name that is in the cache, or add --download"
        ) from error


_KNOWN = {name for names in SPLITS.values() for name in names}


@contextmanager
def _offline(download: bool) -> Iterator[None]:
    """Keeps the libraries off the network, whose settings are read when they are loaded."""
    if download:
        yield
        return
    places = [
        (importlib.import_module("huggingface_hub.constants"), "HF_HUB_OFFLINE"),
        (importlib.import_module("datasets.config"), "HF_HUB_OFFLINE"),
    ]
    before = [getattr(home, name) for home, name in places]
    try:
        for home, name in places:
            setattr(home, name, True)
        yield
    finally:
        for (home, name), value in zip(places, before, strict=True):
            setattr(home, name, value)


def _split(spec: str, found: Any, source: Source) -> tuple[Any, str]:
    """The rows of the split asked for, and what it is called; empty where there is one only."""
    if not isinstance(found, Mapping):
        return found, ""
    for name in SPLITS.get(source.split, (source.split,)):
        if name in found:
            return found[name], name
    raise MarginkitError(
        f"{spec} has the splits {', '.join(map(str, found))}, none of which is {source.split!r}: name one,"
        f" as in {spec}/{next(iter(found), 'test')}"
    )


def _columns(spec: str, dataset: Any, source: Source) -> tuple[str, str]:
    """The columns of inputs and of labels."""
    features = dataset.features
    asked = dict(source.array_keys)
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    found = []
    for key, usual, kind in (("x", INPUTS, "Image"), ("y", LABELS, "ClassLabel")):
        alike = [name for name in kinds if kinds[name] == kind]
        names = [asked[key]] if key in asked else [*(n for n in usual if n in kinds), *alike]
        if not names or names[0] not in kinds:
            raise MarginkitError(
                f"{spec} has the columns {', '.join(map(printable, kinds))}: say which holds the"
                f" {'inputs' if key == 'x' else 'labels'} with --array-keys x=NAME,y=NAME"
            )
        found.append(names[0])
    return found[0], found[1]


def _labels(spec: str, dataset: Any, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    labels = np.asarray(dataset.with_format(None)[column][:])
    if labels.dtype.kind not in "iub" or labels.ndim != 1 or (len(labels) and labels.min() < 0):
        raise MarginkitError(
            f"{spec}: {column} is {labels.dtype} {labels.shape}; expected a class from 0 a row"
        )
    return labels.astype(np.int64), tuple(getattr(dataset.features[column], "names", None) or ())


def _numbered(
    spec: str, labels: np.ndarray, names: tuple[str, ...], known: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Labels as the model numbers its classes, where both have names for them."""
    if not names or not known or names == known:
        return labels, names or known, ()
    if unknown := [name for name in names if name not in known]:
        raise MarginkitError(
            f"{spec} has the class {printable(unknown[0])!r}, which the model does not know; expected"
            f" {', '.join(map(printable, known[:8]))}"
        )
    place = np.array([known.index(name) for name in names])
    return place[labels], known, (f"{spec}: classes are numbered as the model's, by their names",)


def _pictures(library: Any, spec: str, dataset: Any, column: str, labels: np.ndarray, source: Source) -> Data:
    digest = hashlib.sha256(repr(source.image_size).encode())
    stored = dataset.cast_column(column, library.Image(decode=False))
    for start in range(0, len(stored), ROWS):
        for entry in stored[start : start + ROWS][column]:
            digest.update(entry["bytes"] or str(entry["path"]).encode())
    digest.update(labels.data)
    rows = tuple(Row(dataset, column, i, spec) for i in range(len(dataset)))
    pictures, shape = kept_in_memory(Pictures(rows, source.image_size)) if rows else (Pictures(rows), (3,))
    count = int(labels.max(initial=-1)) + 1
    return Data(spec, source.split, pictures, labels, shape, count, digest.hexdigest())


def _array(spec: str, dataset: Any, column: str) -> np.ndarray:
    try:
        found = np.asarray(dataset.with_format("numpy")[column][:])
    except (ValueError, TypeError) as error:
        raise MarginkitError(f"{spec}: {column} has rows of several shapes; expected one") from error
    if found.dtype.kind not in "fiu":
        raise MarginkitError(f"{spec}: {column} is {found.dtype} {found.shape}; expected numbers or pictures")
    return found[:, None] if found.ndim == 1 else found
