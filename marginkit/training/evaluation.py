"""Accuracy, also under Gaussian noise on the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import evaluating
from marginkit.data.dataset import Bounds, Data, Source, batches, refuse_empty
from marginkit.data.sources import load
from marginkit.errors import MarginkitError
from marginkit.guard.answer import answer
from marginkit.logits import right
from marginkit.models.checkpoint import Checkpoint
from marginkit.models.loading import Loading, load_subject


def accuracy(
    model: nn.Module,
    data: Data,
    *,
    sigma: float = 0.0,
    bounds: Bounds = (0.0, 1.0),
    seed: int = 0,
    batch_size: int = 256,
    workers: int = 0,
) -> float:
    """The share of samples classified as labelled, where wanted with Gaussian noise added to the input.

    One draw a sample, from a generator of its own seeded by its index: neither the batch size nor the other
    samples matter, and two models meet the same noise. Noisy inputs are put back into the box.

    Args:
        model: gives scores.
        data: inputs and labels.
        sigma: standard deviation of the noise, in raw input units; 0 is plain accuracy.
        bounds: the box inputs live in.
        seed: of the noise.
        batch_size: samples at a time.
        workers: processes that load images ahead.

    Raises:
        MarginkitError: sigma is negative, or there are no samples.
    """
    if sigma < 0:
        raise MarginkitError(f"sigma is {sigma:g}; expected 0 or more")
    refuse_empty(data)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    correct = 0
    with evaluating(model), torch.no_grad():
        for index, x, y in batches(data, batch_size, workers=workers):
            noisy = x
            if sigma:
                noisy = _clip(x + sigma * _noise(index.tolist(), data.shape, seed), bounds)
            correct += int(right(answer(model, noisy.to(device)).cpu(), y).sum())
    return correct / len(data)


def evaluate_file(
    model: str | Path,
    sigmas: Sequence[float],
    *,
    loading: Loading | None = None,
    bounds: Bounds | None = None,
    dataset: str | None = None,
    source: Source | None = None,
    device: str = "cpu",
    seed: int = 0,
    batch_size: int = 256,
    workers: int = 0,
) -> dict[float, float]:
    """`accuracy` of a model for each sigma, as `load_subject` finds model and data.

    `bounds` is another box than the model's own.

    Raises:
        MarginkitError: as `load_subject`.
    """
    subject = load_subject(model, loading or Loading(), dataset, source, bounds)
    net = subject.model.to(device)
    return {
        sigma: accuracy(
            net,
            subject.data,
            sigma=sigma,
            bounds=subject.bounds,
            seed=seed,
            batch_size=batch_size,
            workers=workers,
        )
        for sigma in sigmas
    }


def test_accuracy(
    checkpoint: Checkpoint, trained_on: Data, source: Source, device: torch.device | str
) -> float | None:
    """Accuracy on the test split of the data set, computed on the device, or None where it has none."""
    test = replace(source, split="test", class_names=trained_on.class_names)
    data = load(trained_on.name, test, bounds=checkpoint.bounds)
    if data.fingerprint == trained_on.fingerprint:
        return None
    return accuracy(checkpoint.model().to(device), data)


def _noise(index: list[int], shape: tuple[int, ...], seed: int) -> Float[Tensor, "n *d"]:
    generator = torch.Generator()
    return torch.stack(
        [torch.randn(shape, generator=generator.manual_seed(seed * 1_000_003 + i)) for i in index]
    )


def _clip(x: Float[Tensor, "n *d"], bounds: Bounds) -> Float[Tensor, "n *d"]:
    return x if bounds == (None, None) else x.clamp(*bounds)
