"""What trains CIFAR-10's artifacts: its jobs can be built, and the small networks are what is written."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

from marginkit.losses import LOSSES
from marginkit.models import checkpoint as checkpoints
from marginkit.models.architectures import ARCHITECTURES
from marginkit.options import configure
from marginkit.training.recipe import Recipe

FOLDER = Path(__file__).parent.parent / "artifacts/cifar"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name: str) -> dict:
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
        return runpy.run_path(str(FOLDER / f"{name}.py"))

    return run


def test_every_job_can_be_built_and_main_networks_fit_a_megabyte(script):
    jobs = script("jobs")
    for job in jobs["jobs"]():
        shape = (1, 28, 28) if job.dataset == "mnist" else (3, 32, 32)
        with torch.device("meta"):
            model = configure(ARCHITECTURES[job.architecture], "job", job.options)(shape, 10)
        assert 4 * sum(value.numel() for value in model.state_dict().values()) < 995_000
        configure(LOSSES[job.loss], "job", job.loss_options)
        Recipe(epochs=1, **job.recipe)
        assert job.stage in jobs["STAGES"]
    names = [(job.dataset, job.name) for job in jobs["jobs"]()]
    assert len(set(names)) == len(names)


def test_many_networks_are_trained_each_with_its_own_settings(script, tmp_path):
    many = script("many")
    torch.manual_seed(0)
    y = torch.randint(10, (200,))
    x = (torch.rand(200, 3, 8, 8) * 60 + 19 * y.view(-1, 1, 1, 1)).byte()
    data = many["Pixels"](x, y)
    rows = many["train_many"](4, data, data, 6, tmp_path, {})
    assert len(rows) == 12
    first, last = (checkpoints.load(tmp_path / f"many-4-{i:02d}.pt")[0] for i in (0, 11))
    assert not torch.equal(first.state["scores.weight"], last.state["scores.weight"])
    for row in (rows[0], rows[-1]):
        model = checkpoints.load(tmp_path / f"{row['name']}.pt")[0].model()
        assert float((model(x.float() / 255).argmax(1) == y).double().mean()) == row["test"] == row["train"]
    assert max(row["train"] for row in rows) > 0.2
