"""Real images in one small file: `python artifacts/cifar/pack.py packed.npz --data-root DIR`.

CIFAR-10 as JPEG files in folders DIR/cifar10/{train,test}/CLASS, and MNIST as torchvision keeps it. The bytes
of all files, one after the other, compressed by xz: CIFAR-10's 55 MB of JPEG become a third, as most of a
small JPEG is the same in all of them.
"""

from __future__ import annotations

import io
import lzma
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
from PIL import Image

from marginkit.data.dataset import Data, Source
from marginkit.data.in_memory import in_memory
from marginkit.data.sources import load

XZ = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**26}]


def _squeezed(parts: list[bytes]) -> np.ndarray:
    return np.frombuffer(lzma.compress(b"".join(parts), lzma.FORMAT_RAW, filters=XZ), np.uint8)


def _whole(array: np.ndarray) -> bytes:
    return lzma.decompress(array.tobytes(), lzma.FORMAT_RAW, filters=XZ)


def packed(root: Path) -> dict[str, np.ndarray]:
    """Arrays to save: for each split CIFAR's files, their sizes and labels, and MNIST's pixels."""
    found = {}
    for split in ("train", "test"):
        folder = root / "cifar10" / split
        classes = sorted(path.name for path in folder.iterdir())
        files = [(path, i) for i, name in enumerate(classes) for path in sorted((folder / name).iterdir())]
        parts = [path.read_bytes() for path, _ in files]
        found[f"cifar/{split}"] = _squeezed(parts)
        found[f"cifar/{split}/sizes"] = np.array(list(map(len, parts)), np.int32)
        found[f"cifar/{split}/labels"] = np.array([i for _, i in files], np.uint8)
        mnist = load("mnist", Source(split=split, root=root))
        pixels = np.asarray(mnist.inputs.array)  # type: ignore[attr-defined]
        found[f"mnist/{split}"] = _squeezed([pixels.tobytes()])
        found[f"mnist/{split}/labels"] = mnist.labels.astype(np.uint8)
    return found


def unpacked(file: Path, into: Path, every: int = 1) -> None:
    """Writes NAME-SPLIT.npz with x [n, channels, height, width] as bytes, and y; of each `every`th image."""
    into.mkdir(parents=True, exist_ok=True)
    with np.load(file) as arrays:
        for split in ("train", "test"):
            whole = _whole(arrays[f"cifar/{split}"])
            ends = np.cumsum(arrays[f"cifar/{split}/sizes"])
            cut = [whole[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
            with ThreadPoolExecutor(8) as pool:
                images = list(
                    pool.map(lambda part: np.asarray(Image.open(io.BytesIO(part)).convert("RGB")), cut)
                )
            x = np.stack(images).transpose(0, 3, 1, 2)
            y = arrays[f"cifar/{split}/labels"].astype(np.int64)
            np.savez(into / f"cifar-{split}.npz", x=x[::every], y=y[::every])
            y = arrays[f"mnist/{split}/labels"].astype(np.int64)
            x = np.frombuffer(_whole(arrays[f"mnist/{split}"]), np.uint8).reshape(len(y), 1, 28, 28)
            np.savez(into / f"mnist-{split}.npz", x=x[::every], y=y[::every])


def data(folder: Path, name: str, split: str) -> Data:
    """What `unpacked` wrote, as a data set."""
    with np.load(folder / f"{name}-{split}.npz") as arrays:
        return in_memory(name, split, arrays["x"], arrays["y"], 10)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
def main(out: Path, data_root: Path) -> None:
    """Packs them."""
    np.savez(out, **packed(data_root))
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
