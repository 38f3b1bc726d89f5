"""What the guard adds to a call of a model.

    python tests/benchmarks/guard.py [--batch 128] [--repeats 300]

Pairs of calls in turn, with the guard and without, of forward passes and of a search's forward and
backward passes. Process time; the median of each and of their ratio in every pair, so that what
else the machine does falls on both.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import process_time

import torch
from torch import nn

from marginkit.activations import capture, evaluating
from marginkit.guard.answer import answer
from marginkit.models.architectures import ARCHITECTURES


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Models, and the shapes of their inputs."""
    cnn_a = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    return {
        "mlp 20-16-5": (nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5)), (20,)),
        "cnn of the artifacts": (ARCHITECTURES["cnn"]()((1, 28, 28), 10), (1, 28, 28)),
        "CNN-A": (cnn_a, (3, 32, 32)),
    }


def compared(bare: Callable[[], object], guarded: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds of the bare call, and how many times those the guarded one takes."""
    alone, ratio = [], []
    for i in range(repeats + 10):
        seconds = {}
        for call in (bare, guarded) if i % 2 else (guarded, bare):
            began = process_time()
            call()
            seconds[call] = process_time() - began
        if i >= 10:
            alone.append(seconds[bare])
            ratio.append(seconds[guarded] / seconds[bare])
    return median(alone), median(ratio)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--batch", type=int, default=128)
    arguments.add_argument("--repeats", type=int, default=300)
    asked = arguments.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, (model, shape) in networks().items():
        x = torch.rand(asked.batch, *shape)

        def bare(model: nn.Module = model, x: torch.Tensor = x) -> None:
            with torch.no_grad():
                model(x)

        def guarded(model: nn.Module = model, x: torch.Tensor = x) -> None:
            with torch.no_grad():
                answer(model, x)

        def bare_step(model: nn.Module = model, x: torch.Tensor = x) -> None:
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(model(leaf).sum(), leaf)

        def guarded_step(model: nn.Module = model, x: torch.Tensor = x) -> None:
            scores, leaves = capture(model, x, ("input",))
            torch.autograd.grad(scores.sum(), leaves)

        with evaluating(model):
            for what, calls in (
                ("forward", (bare, guarded)),
                ("forward and backward", (bare_step, guarded_step)),
            ):
                seconds, ratio = compared(*calls, asked.repeats)
                print(f"{name:22} {what:22} {seconds * 1e6:9.0f} us  guard {ratio - 1:+.2%}", flush=True)


if __name__ == "__main__":
    main()
