"""What several tests share: a small trained network, and everything parametrised over the norms."""

from __future__ import annotations

import os

import pytest
import torch
import typecheck
from unchanged import unchanged

from marginkit.data.dataset import Source, batches
from marginkit.data.sources import load
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.norms import NORMS, Norm
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

torch.set_num_threads(1)  # pytest-xdist already uses every core
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same numbers on every machine, in subprocesses too


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    typecheck.begin_again()


@pytest.fixture(params=list(NORMS.values()), ids=str)
def norm(request) -> Norm:
    return request.param


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory):
    """A small network trained on the digits for a moment."""
    path = tmp_path_factory.mktemp("trained") / "model.pt"
    digits = load("digits", Source(split="train"))
    train(
        digits,
        path,
        architecture="mlp",
        architecture_options={"hidden": (24, 16)},
        loss="cross-entropy",
        recipe=Recipe(epochs=20, learning_rate=5e-3),
    )
    with unchanged(path):
        yield path


@pytest.fixture(scope="module")
def model(checkpoint_path):
    """That network, as its checkpoint gives it."""
    with unchanged(load_checkpoint(checkpoint_path)[0].model()) as found:
        yield found


@pytest.fixture(scope="session")
def network(checkpoint_path):
    """The same in float64, where rounding does not hide or feign a difference."""
    with unchanged(load_checkpoint(checkpoint_path)[0].model().double()) as found:
        yield found


@pytest.fixture(scope="session")
def digits():
    """The digits' test split."""
    with unchanged(load("digits")) as found:
        yield found


@pytest.fixture(scope="session")
def samples():
    """Eighteen test digits, float64, and their labels."""
    _, x, y = next(batches(load("digits"), 18))
    with unchanged((x.double(), y)) as found:
        yield found
