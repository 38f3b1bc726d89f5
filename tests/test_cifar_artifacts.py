"""What makes CIFAR-10's figures: images in folders read once, a pool of networks, the regimes."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from marginkit.comparison.prediction import predict
from marginkit.data.in_memory import in_memory
from marginkit.models import checkpoint as checkpoints
from marginkit.table.reading import read
from marginkit.table.summary import accuracy

FOLDER = Path(__file__).parent.parent / "artifacts/cifar"
POOL = (0, 1, 12, 24, 25)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name: str) -> dict:
        monkeypatch.delitem(sys.modules, "images", raising=False)
        return runpy.run_path(str(FOLDER / f"{name}.py"))

    return run


@pytest.fixture
def coloured():
    """Two splits of images whose brightness tells the class."""
    random = np.random.default_rng(0)
    y = np.arange(200) % 10
    x = (random.random((200, 3, 8, 8)) * 60 + 19 * y.reshape(-1, 1, 1, 1)).astype(np.uint8)
    return [
        in_memory("tiny", split, x[rows], y[rows], 10)
        for split, rows in (("train", slice(100)), ("test", slice(100, None)))
    ]


def test_images_in_folders_are_read_once_and_recorded_without_their_place(script, tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        folder = tmp_path / "cifar10/test" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    found = script("images")["cifar10"](tmp_path, "test")
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    assert found.name == "imagefolder:cifar10"
    assert found.labels.tolist() == [0, 0, 1, 1]
    expected = torch.from_numpy(pixels[[0, 2, 1, 3]].transpose(0, 3, 1, 2).copy()).float() / 255
    torch.testing.assert_close(found.inputs([0, 1, 2, 3]), expected)


def test_the_pools_have_networks_of_every_setting_that_predict_ranks(script, coloured, tmp_path):
    gap = script("gap")
    assert [len(set(settings)) for settings in gap["POOLS"].values()] == [36, 36]
    for number in POOL:
        what = gap["POOLS"]["mixed"][number]
        reached = gap["fit_and_measure"](what, tmp_path / f"{number}", number, *coloured, epochs=6)
    assert reached == [accuracy(read(tmp_path / f"{number}-{split}.h5")) for split in ("train", "test")]
    trained = checkpoints.load(tmp_path / f"{number}.pt")[0]
    recipe = trained.training["recipe"]
    assert trained.options["channels"] == (what.width, 2 * what.width)
    assert (recipe["weight_decay"], recipe["learning_rate"]) == (what.decay, what.rate)
    assert recipe["augment"] == what.moved == ("shift", "flip")
    tables = {path.name: read(path) for path in tmp_path.glob("*.h5")}
    assert len(predict(tables).gaps) == 5
    assert {path.name for path in tmp_path.iterdir()} == {*tables, *(f"{i}.pt" for i in POOL)}


def test_the_regimes_train_each_way_and_their_table_has_paired_leads(script, coloured, tmp_path):
    regimes = script("regimes")
    for run in regimes["runs"]()[:4]:
        regimes["fit"](run, coloured[0], tmp_path / "m.pt", epochs=1, fraction=1.0)
        trained = checkpoints.load(tmp_path / "m.pt")[0].training
        assert trained["loss"] == run.way.replace(" ", "-")
        assert trained["recipe"]["label_noise"] == 0.4 * ("wrong" in run.regime)
    lines = [
        {"regime": "2,500 images", "way": way, "seed": seed, "accuracy": 0.5 + 0.01 * seed + lead}
        for way, lead in (("cross-entropy", 0.0), ("large margin", 0.02))
        for seed in range(3)
    ]
    rows = regimes["table"](lines)
    # t of 2 degrees of freedom: 4.303 x 1 / sqrt 3
    assert rows[2:] == ["| 2,500 images | 51.0 ± 2.5 | 53.0 ± 2.5 | 2.0 ± 0.0 | 3 |"]
