"""Folders of pictures, one a class: their names, their numbers, and their pixels."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from marginkit.data.dataset import Data, Source
from marginkit.errors import MarginkitError
from marginkit.files.untrusted import printable

ENDINGS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
NO_CLASS = ("__MACOSX",)
ORIENTATION = 0x0112  # EXIF's tag
LARGEST_CACHE = 2**31  # bytes of decoded pictures that are kept


def imagefolder(spec: str, source: Source) -> Data:
    """DIR/<split>/CLASS/*.png (or DIR/val for test), or DIR/CLASS/*.png for every split.

    Classes are numbered as the model's, where it knows them by name; else as in DIR/train where that is;
    else in the order of their names, numbers by their value. Hidden folders are none, empty ones are.
    """
    top = Path(source.argument).expanduser()
    splits = [top / name for name in ((source.split, "val") if source.split == "test" else (source.split,))]
    root = next((folder for folder in splits if folder.is_dir()), top)
    own = _names(root)
    names, remarks = _numbering(root, top / "train", own, source)
    size = source.image_size
    files = [(path, names.index(name)) for name in own for path in _pictures(root / name)]
    files.sort(key=lambda entry: entry[1])
    if not files:
        raise MarginkitError(f"{root} has no folders of images, one a class")
    listed = [(path.relative_to(root).as_posix(), path.stat().st_size, y) for path, y in files]
    kept, shape = kept_in_memory(Pictures(tuple(path for path, _ in files), size))
    return Data(
        name=spec,
        split=source.split,
        inputs=kept,
        labels=np.array([y for _, y in files], np.int64),
        shape=shape,
        classes=len(names),
        fingerprint=hashlib.sha256(repr((listed, size)).encode()).hexdigest(),
        class_names=names,
        remarks=remarks,
    )


def _names(root: Path) -> list[str]:
    """The class folders, in order; where all are numbers, by their value."""
    try:
        names = [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    except OSError as error:
        raise MarginkitError(f"{root} has no folders of images, one a class: {error}") from error
    names = [name for name in names if name not in NO_CLASS]
    if not names:
        raise MarginkitError(f"{root} has no folders of images, one a class")
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name), name) if numbers else (0, name))


def _numbering(
    root: Path, train: Path, own: list[str], source: Source
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes in the order of their numbers, and remarks."""
    known, whose = source.class_names, "the model"
    if not known and root != train and root.parent == train.parent and train.is_dir():
        known, whose = tuple(_names(train)), str(train)
    if not known:
        if source.fresh:
            return tuple(own), ()
        shown = ", ".join(own[:6]) + (", ..." if len(own) > 6 else "")
        return tuple(own), (f"{root} is numbered by its own folders, 0 to {len(own) - 1}: {shown}",)
    if unknown := [name for name in own if name not in known]:
        raise MarginkitError(
            f"{root} has the class {unknown[0]!r}, which {whose} does not know; expected"
            f" {_list(known)}: rename or remove the folder"
        )
    missing = [name for name in known if name not in own]
    note = f"{root} has no folder for {len(missing)} of {len(known)} classes: {_list(missing)}"
    return tuple(known), (note,) if missing else ()


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _pictures(folder: Path) -> list[Path]:
    return [
        Path(inside) / name
        for inside, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if os.path.splitext(name)[1].lower() in ENDINGS and not name.startswith(".")
    ]


def _room(count: int, shape: tuple[int, ...]) -> _Memory | None:
    needed = count * int(np.prod(shape))
    return _Memory(count, shape) if needed <= LARGEST_CACHE else None


class _Memory:
    """Pictures in bytes that all the processes which load them share; each has its own where they can't."""

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self.count, self.shape = count, shape
        self._open()

    def _open(self) -> None:
        size = int(np.prod(self.shape))
        whole = np.frombuffer(mmap.mmap(-1, self.count * (size + 1)), np.uint8)
        self.there, self.pixels = whole[: self.count], whole[self.count :].reshape(self.count, *self.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"count": self.count, "shape": self.shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


@runtime_checkable
class Opening(Protocol):
    """What gives a picture and is no file; as text it says what it is."""

    def open(self) -> Image.Image:
        """The picture."""
        ...


@dataclass(frozen=True)
class Pictures:
    """Pictures [n, 3, height, width] as floats.

    Bytes are divided by 255, 16 bits by 65535, and floats are taken as they are if they lie in [0, 1]; then
    everything is multiplied by `unit`.

    Attributes:
        paths: of the files, or what else gives pictures.
        size: of squares to resize and crop to; None leaves pictures as they are.
        unit: what white is.
        memory: keeps what was decoded.
    """

    paths: tuple[Path | Opening, ...]
    size: int | None = None
    unit: float = 1.0
    memory: _Memory | None = field(default=None, compare=False)

    def __call__(self, positions: list[int]) -> Tensor:
        """The pictures at these positions.

        Raises:
            MarginkitError: one can't be read, is of a kind that has no scale, or they differ in size.
        """
        found = [self._one(position) for position in positions]
        sizes = sorted({array.shape[1:] for array in found})
        if len(sizes) > 1:
            raise MarginkitError(
                f"images have several sizes, {', '.join(f'{h}x{w}' for h, w in sizes[:4])}: give --image-size"
            )
        if all(array.dtype == np.uint8 for array in found):
            pixels = torch.from_numpy(np.stack(found)).float()
            return pixels if self.unit == 255 else pixels.mul_(self.unit).div_(255)
        floats = [array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1) for array in found]
        return torch.from_numpy(np.stack(floats)).float() * self.unit

    def _one(self, position: int) -> np.ndarray:
        memory = self.memory
        if memory is not None and memory.there[position]:
            kept: np.ndarray = memory.pixels[position]
            return kept
        path = self.paths[position]
        try:
            with Image.open(path) if isinstance(path, Path) else path.open() as image:
                array = _decoded(image, path, self.size)
        except MarginkitError:
            raise
        except Exception as error:  # a broken picture fails in any of Pillow's ways
            reason = printable(str(error).partition("\n")[0])
            raise MarginkitError(f"{path} is not a picture that can be read: {reason}") from error
        if memory is not None and array.dtype == np.uint8 and array.shape == memory.shape:
            memory.pixels[position] = array
            memory.there[position] = 1
        return array


def kept_in_memory(pictures: Pictures) -> tuple[Pictures, tuple[int, ...]]:
    """The pictures, kept once they are decoded where memory allows it, and the shape of the first."""
    shape = tuple(pictures([0])[0].shape)
    return replace(pictures, memory=_room(len(pictures.paths), shape)), shape


def _decoded(image: Image.Image, path: Path | Opening, size: int | None) -> np.ndarray:
    """[3, height, width]: bytes, or floats in [0, 1] where the file has more than bytes."""
    with suppress(Exception):  # a picture whose EXIF is broken is still a picture
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    deep = _deep(image, path)
    pixels = image.convert("RGB") if deep is None else deep
    if size is not None:
        pixels = _square(pixels, size)
    if deep is None:
        return np.ascontiguousarray(np.asarray(pixels).transpose(2, 0, 1))
    return np.broadcast_to(np.asarray(pixels, np.float32), (3, pixels.height, pixels.width))


def _deep(image: Image.Image, path: Path | Opening) -> Image.Image | None:
    """The picture as floats in [0, 1] where a pixel has more than 8 bits; None where it does not."""
    if image.mode not in ("F", "I") and not image.mode.startswith("I;"):
        return None
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((values / 65535).astype(np.float32))
    if image.mode == "F" and np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1:
        return Image.fromarray(values.astype(np.float32))
    kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
    raise MarginkitError(
        f"{path} has pixels of {kind} from {values.min():g} to {values.max():g}, whose scale is not known:"
        " expected 8 or 16 bits, or floats in [0, 1]"
    )


def _square(image: Image.Image, size: int) -> Image.Image:
    """Resized so that the shorter side has this size, and cropped in the middle."""
    from torchvision.transforms import functional

    resized: Image.Image = functional.center_crop(functional.resize(image, [size]), [size, size])
    return resized
