"""One training step against cross-entropy's: `python tests/benchmarks/training_step.py`.

Batch 128 of 28x28 images, the cnn architecture with its input and three hidden layers.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import torch
from timing import interleaved, show

from marginkit.losses import Loss
from marginkit.losses.cross_entropy import CrossEntropy
from marginkit.losses.large_margin import LargeMargin
from marginkit.models.architectures import ARCHITECTURES


def paper(**options: object) -> LargeMargin:
    """The loss as published."""
    return LargeMargin(**{"gamma": 1.0, "steps": 0, "cross_entropy": 0.0, **options})  # type: ignore[arg-type]


LOSSES: dict[str, Loss] = {
    "cross-entropy": CrossEntropy(),
    "top-1, constant norm": paper(),
    "top-1, constant norm, input only": paper(layers=("input",)),
    "9 rivals, constant norm": paper(top_k=None, aggregate="sum"),
    "top-1, differentiated norm": paper(differentiate_norm=True),
    "the defaults": LargeMargin(low=0.0, high=1.0),
    "9 rivals, differentiated norm": paper(top_k=None, aggregate="sum", differentiate_norm=True),
}


@click.command()
@click.option("--arch", default="cnn", show_default=True)
@click.option("--repeats", default=30, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(arch: str, repeats: int, device: str) -> None:
    """Prints milliseconds a step, and the ratio to cross-entropy."""
    torch.manual_seed(0)
    model = ARCHITECTURES[arch]()((1, 28, 28), 10).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.rand(128, 1, 28, 28, device=device), torch.randint(10, (128,), device=device)

    def step(loss: Loss) -> Callable[[], None]:
        def run() -> None:
            optimizer.zero_grad()
            loss(model, x, y).backward()
            optimizer.step()
            if device != "cpu":
                torch.cuda.synchronize()

        return run

    seconds = interleaved({name: step(loss) for name, loss in LOSSES.items()}, repeats)
    show(f"{arch}, batch 128, {device}, {torch.get_num_threads()} threads", seconds, "cross-entropy")


if __name__ == "__main__":
    main()
