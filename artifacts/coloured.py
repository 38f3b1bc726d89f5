"""Fashion-MNIST in colour, in CIFAR's shape: `python artifacts/coloured.py coloured.npz --data-root DIR`.

Each 28x28 image is put somewhere on a smooth background of two colours, in a third, with noise: 3x32x32,
where the class is still the shape. It stands in for CIFAR-10 where that can't be had.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F

from marginkit.data.dataset import Source
from marginkit.data.sources import load

SIZE, SHIFTS = 32, 5


def coloured(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """[n, 1, 28, 28] to [n, 3, 32, 32], all in [0, 1]."""
    n = len(images)
    colours = torch.rand(3, n, 3, 1, 1, generator=generator)
    mix = F.interpolate(torch.rand(n, 1, 3, 3, generator=generator), size=(SIZE, SIZE), mode="bicubic")
    shape = torch.zeros(n, 1, SIZE, SIZE)
    for i, (top, left) in enumerate(torch.randint(SHIFTS, (n, 2), generator=generator).tolist()):
        shape[i, :, top : top + 28, left : left + 28] = images[i]
    background = colours[0].lerp(colours[1], mix.clamp(0, 1))
    noise = 0.03 * torch.randn(n, 3, SIZE, SIZE, generator=generator)
    return (background.lerp(colours[2], shape) + noise).clamp(0, 1)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(out: Path, data_root: Path, seed: int) -> None:
    """Writes both splits into one file, for `--dataset npz:coloured.npz`."""
    generator = torch.Generator().manual_seed(seed)
    arrays = {}
    for split, suffix in (("train", ""), ("test", "_test")):
        data = load("fashion-mnist", Source(split=split, root=data_root))
        images = coloured(data.inputs(list(range(len(data)))), generator)
        arrays |= {f"x{suffix}": (255 * images).round().to(torch.uint8).numpy(), f"y{suffix}": data.labels}
    np.savez_compressed(out, **arrays)
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
