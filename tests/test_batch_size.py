"""`--batch-size auto`: a short trial chooses; the file says what, and a resumed run takes it."""

from __future__ import annotations

import pytest
import torch
from quickly import measure
from torch import nn

from marginkit.errors import UsageError
from marginkit.events import Noted
from marginkit.guard.passes import Meter
from marginkit.measurement import batch_size
from marginkit.measurement.batch import BatchRunner
from marginkit.methods.deepfool import DeepFool

METHODS = {"deepfool": DeepFool(steps=5)}
AUTO = {"first": 45, "batch_size": "auto"}


@pytest.fixture
def trials(monkeypatch):
    """Batches of 32 are the fastest; and which sizes were tried."""
    tried = []

    def seconds(model, x):
        tried.append(len(x))
        return len(x) * (0.001 if len(x) == 32 else 0.002)

    monkeypatch.setattr(batch_size, "seconds", seconds)
    return tried


@pytest.mark.parametrize(
    ("cost", "best"),
    [
        (lambda n: 0.1, 512),  # a call costs, a sample nothing
        (lambda n: 0.001 * n, 16),  # no batch is faster: the least memory
        (lambda n: 0.001 * n**1.5, 16),
        (lambda n: 0.0001 * (24 + n), 256),  # 512 would save less than a twentieth
        (lambda n: 0.1 * (64 + n), 16),  # a pass of 8 s, nothing longer is tried
        (lambda n: 0.1 if n < 128 else torch.inf, 64),  # 128 do not fit
    ],
    ids=["calls", "samples", "worse", "both", "long", "memory"],
)
def test_the_smallest_that_none_beats_by_a_twentieth_wins(cost, best):
    assert batch_size.chosen(cost, 10_000) == best


@pytest.mark.parametrize("samples", [1, 20, 100])
def test_no_batch_is_larger_than_the_data_asks_for(samples):
    tried = []
    batch_size.chosen(lambda n: tried.append(n) or 0.1, samples)
    assert tried[0] == 16
    assert all(size < 2 * samples for size in tried[1:])


def test_a_pass_is_timed_and_leaves_the_model_alone(model, digits):
    x = digits.inputs([0, 1, 2])
    weights = [p.clone() for p in model.parameters()]
    with Meter().counting(model):
        assert 0 < batch_size.seconds(model, x) < 60
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(model.parameters(), weights, strict=True))


def test_what_does_not_fit_into_memory_takes_for_ever():
    class Full(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("none left")

    assert batch_size.seconds(Full(), torch.zeros(2, 3)) == torch.inf


@pytest.mark.quick
def test_the_file_says_what_was_chosen_and_is_that_of_the_number(model, digits, tmp_path, trials):
    heard = []
    found = measure(model, digits, METHODS, ["l2"], out=tmp_path / "a.h5", on_event=heard.append, **AUTO)
    assert trials == [16, 32, 64]
    assert found.provenance.batch_size == 32
    assert [event.text for event in heard if isinstance(event, Noted)] == [
        "samples are measured 32 at a time: the fastest of a short trial"
    ]
    measure(model, digits, METHODS, ["l2"], out=tmp_path / "b.h5", **{**AUTO, "batch_size": 32})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_in_memory_too(model, digits, trials):
    assert measure(model, digits, METHODS, ["l2"], **AUTO).provenance.batch_size == 32


def test_a_stopped_run_goes_on_as_it_began(model, digits, tmp_path, trials, monkeypatch):
    """To the bytes of a run with that number, without a trial."""
    settings = {"out": tmp_path / "a.h5", "first": 45}
    plain, left = BatchRunner.__call__, [0, 1]

    def stopping(runner, *arguments):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return plain(runner, *arguments)

    monkeypatch.setattr(BatchRunner, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        measure(model, digits, METHODS, ["l2"], batch_size=10, **settings)
    monkeypatch.setattr(BatchRunner, "__call__", plain)
    heard = []
    again = {"batch_size": "auto", "resume": True, "on_event": heard.append}
    measure(model, digits, METHODS, ["l2"], **settings, **again)
    assert not trials
    assert "samples are measured 10 at a time: as before" in [e.text for e in heard if isinstance(e, Noted)]
    measure(model, digits, METHODS, ["l2"], first=45, batch_size=10, out=tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_columns_are_added_to_a_file_in_its_own_batches(model, digits, tmp_path, trials):
    out = tmp_path / "a.h5"
    measure(model, digits, METHODS, ["l2"], out=out, first=45, batch_size=10)
    found = measure(model, digits, METHODS, ["l2", "linf"], out=out, resume=True, **AUTO)
    assert not trials
    assert found.provenance.batch_size == 10
    assert "deepfool.linf" in [column.name for column in found.columns]
    assert (
        measure(model, digits, METHODS, ["l2"], out=out, overwrite=True, **AUTO).provenance.batch_size == 32
    )


def test_shards_have_to_be_told(model, digits, tmp_path):
    with pytest.raises(UsageError, match="each shard would choose its own batch size: give a number"):
        measure(model, digits, METHODS, ["l2"], out=tmp_path / "a.h5", shard=(1, 2), **AUTO)


@pytest.mark.parametrize("size", [0, -1, "large", 2.5, True])
def test_other_sizes_are_refused(size):
    with pytest.raises(UsageError, match=f"batch_size = {size!r}: give at least 1, or auto"):
        batch_size.checked(size, (1, 1))
