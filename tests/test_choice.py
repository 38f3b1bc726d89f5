"""Which samples are measured where not all of them are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from marginkit.data.choice import chosen
from marginkit.data.dataset import Data
from marginkit.errors import IncompatibleError, MarginkitError, UsageError
from marginkit.events import BatchDone
from marginkit.measurement.measure import measure
from marginkit.table.merge import merge
from marginkit.table.reading import read
from marginkit.table.verdicts import KEY

SORTED = np.repeat(np.arange(4), 30)
SKEWED = np.repeat([0, 1, 2, 5], [50, 3, 40, 27])
MIXED = np.random.default_rng(0).permutation(SORTED)


def data(labels) -> Data:
    x = torch.rand(len(labels), 6, generator=torch.Generator().manual_seed(0))
    return Data("x", "test", lambda rows: x[rows], labels, (6,), int(labels.max()) + 1, "f")


def model(seed=0, outputs=6) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs))


@pytest.mark.parametrize("labels", [SORTED, SKEWED, MIXED])
@pytest.mark.parametrize("count", [1, 3, 4, 13, 60, 119, 500])
def test_samples_are_spread_as_evenly_as_there_are_any(labels, count):
    found = chosen(data(labels), count, seed=0)
    assert len(found) == min(count, len(labels))
    assert (np.diff(found) > 0).all()
    have = np.bincount(labels[found], minlength=6)
    there = np.bincount(labels, minlength=6)
    fewest = min((h for h, t in zip(have, there, strict=True) if h < t), default=max(have))
    assert have.max() <= fewest + 1 or all(h <= fewest + 1 for h in have)


def test_fewer_samples_are_a_part_of_more_and_another_seed_chooses_others():
    few, many = (set(chosen(data(MIXED), count, 3).tolist()) for count in (10, 25))
    assert few < many
    assert few != set(chosen(data(MIXED), 10, 4).tolist())


def test_a_limit_is_the_same_for_every_model_and_stands_in_the_file(tmp_path):
    tables = [
        measure(model(i), data(SORTED), ["first_order"], ["l2"], limit=13, seed=5, out=tmp_path / f"{i}.h5")
        for i in range(2)
    ]
    expected = chosen(data(SORTED), 13, 5)
    for i, table in enumerate(tables):
        assert (table.index == expected).all()
        assert (table.label == SORTED[expected]).all()
        assert read(tmp_path / f"{i}.h5").meta["choice"] == {"samples": 13, "seed": 5}
    assert (tables[0].hash == tables[1].hash).all()
    whole = measure(model(), data(SORTED), ["first_order"], ["l2"])
    assert np.allclose(tables[0].columns[0].distance, whole.columns[0].distance[expected], rtol=1e-5)


def test_the_first_are_the_first():
    table = measure(model(), data(SORTED), ["first_order"], ["l2"], first=7)
    assert table.index.tolist() == list(range(7))
    assert "choice" not in table.meta


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"limit": 0}, "a limit of 0 leaves nothing"),
        ({"first": -1}, "the first -1 leaves nothing"),
        ({"limit": 3, "first": 3}, "give one"),
    ],
)
def test_what_can_not_be_chosen_is_refused(asked, message):
    with pytest.raises(UsageError, match=message):
        measure(model(), data(SORTED), ["first_order"], **asked)


def test_shards_of_chosen_samples_are_merged(tmp_path):
    settings = {"limit": 22, "batch_size": 4, "checks": 0}
    paths = [tmp_path / f"{i}.h5" for i in (1, 2, 3)]
    for i, path in enumerate(paths, 1):
        measure(model(), data(SORTED), ["first_order"], ["l2"], out=path, shard=(i, 3), **settings)
    merged = merge(tmp_path / "all.h5", paths)
    whole = measure(model(), data(SORTED), ["first_order"], ["l2"], **settings)
    assert (merged.index == whole.index).all()
    assert (merged.columns[0].distance == whole.columns[0].distance).all()
    measure(model(), data(SORTED), ["first_order"], ["l2"], out=tmp_path / "o.h5", shard=(3, 3),
            **{**settings, "seed": 1})  # fmt: skip
    with pytest.raises(IncompatibleError, match=r"choice\.seed"):
        merge(tmp_path / "no.h5", [*paths[:2], tmp_path / "o.h5"])


@pytest.mark.parametrize("before", [{"first": 12}, {"limit": 12, "seed": 1}])
@pytest.mark.parametrize("broken_off", [False, True])
def test_other_samples_are_never_added_to_a_file(tmp_path, before, broken_off):
    out = tmp_path / "a.h5"
    settings = {"checks": 0, "batch_size": 4, "out": out}

    heard = []

    def stop(event):
        heard.append(event)
        if broken_off and sum(isinstance(e, BatchDone) for e in heard) == 2:  # the first batch is written
            raise KeyboardInterrupt

    try:
        measure(model(), data(SORTED), ["first_order"], ["l2"], on_event=stop, **settings, **before)
    except KeyboardInterrupt:
        assert broken_off
    methods = ["first_order"] if broken_off else ["deepfool"]
    with pytest.raises(MarginkitError, match="choice"):
        measure(model(), data(SORTED), methods, ["l2"], resume=True, limit=12, **settings)


@pytest.mark.parametrize(("asked", "raised"), [({"first": 40}, True), ({"limit": 40}, False), ({}, False)])
def test_missing_classes_are_a_doubt(asked, raised):
    network = nn.Linear(6, 6)
    nn.init.eye_(network.weight)
    x = data(SORTED).inputs(list(range(120))) + 2 * torch.eye(6)[torch.from_numpy(SORTED)]
    found = Data("x", "test", lambda rows: x[rows], SORTED, (6,), 4, "f")
    table = measure(network, found, ["first_order"], ["l2"], bounds=(None, None), **asked)
    (verdict,) = (v for v in table.meta[KEY]["verdicts"] if v["check"] == "missing-classes")
    assert verdict["raised"] == raised
    assert verdict["figure"] == (0.5 if raised else 0)
    json.dumps(table.meta)
