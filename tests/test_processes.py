"""Two processes give what one gives: gradients, trained models, files; shards merge to the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from marginkit_cli.measure import _lasting
from quickly import measure

from marginkit.data.sources import load
from marginkit.distributed import ALONE
from marginkit.errors import IncompatibleError, MarginkitError, UsageError
from marginkit.measurement.plan import shard
from marginkit.methods.deepfool import DeepFool
from marginkit.methods.fixed_radius import BIM
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.table.merge import merge
from marginkit.table.reading import read
from marginkit.table.writing import write

METHODS = {"deepfool": DeepFool(steps=5), "bim": BIM(eps=(0.1, 0.2), steps=3)}


def torchrun(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, *map(str, command)],
        cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_two_processes_train_as_one(tmp_path):
    """Every loss's gradients to 1e-6, and the model after two epochs; the first process alone writes."""
    done = torchrun(Path(__file__).parent / "two_ranks.py", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    two, one = (load_checkpoint(tmp_path / name)[0] for name in ("two.pt", "one.pt"))
    for name, weights in one.state.items():
        torch.testing.assert_close(two.state[name], weights, rtol=2e-3, atol=2e-4)
    for a, b in zip(two.training["history"], one.training["history"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.02)
    lines = (tmp_path / "two.metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_two_processes_measure_the_file_of_one(checkpoint_path, tmp_path):
    options = ["--model", checkpoint_path, "--methods", "deepfool,first_order", "--first", 60]
    command = ["-m", "marginkit_cli", "measure", *options, "--batch-size", 8, "--device", "cpu"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    alone = [sys.executable, *map(str, command), "--out", "one.h5", "-q"]
    subprocess.run(alone, cwd=tmp_path, check=True, env=env)
    done = torchrun(*command, "--out", "two.h5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote two.h5") == 1
    assert (tmp_path / "two.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()
    events = [json.loads(line) for line in (tmp_path / "two.log.jsonl").read_text().splitlines()]
    measured = [event["first"] for event in events if event["event"] == "batch"]
    assert sorted(measured) == list(range(0, 60, 8)), "every batch once"
    assert {event["rank"] for event in events if event["event"] == "batch"} <= {0, 1}


def test_one_process_shares_with_nobody():
    assert list(ALONE.share([3, 4])) == [3, 4]
    assert ALONE.agree(lambda: 5) == 5
    assert ALONE.total(2.0) == 2.0
    assert ALONE.device("cuda") == "cuda"


# Shards ----------------------------------------------------------------------------------------------


@pytest.fixture
def shards(checkpoint_path, tmp_path):
    """A whole measurement, and the same in three shards."""
    model, digits = load_checkpoint(checkpoint_path)[0].model(), load("digits")

    def run(name, shard=(1, 1), **changes):
        settings = {"first": 45, "batch_size": 7, "witnesses": True, "shard": shard, **changes}
        measure(model, digits, METHODS, ["l2"], out=tmp_path / name, **settings)
        return tmp_path / name

    return run, run("whole.h5"), [run(f"{i}.h5", (i, 3)) for i in (1, 2, 3)]


def test_merged_shards_are_the_single_run(shards, tmp_path):
    _, whole, parts = shards
    out = tmp_path / "merged.h5"
    merge(out, [parts[2], parts[0], parts[1]])
    assert out.read_bytes() == whole.read_bytes()
    assert read(whole).meta["robust_accuracy"]


def test_shards_that_do_not_belong_together_are_named(shards, tmp_path):
    run, whole, parts = shards
    out = tmp_path / "merged.h5"
    other = run("other.h5", (2, 3), dtype="float64")
    many = run("many.h5", (2, 4))
    again = tmp_path / "again.h5"
    again.write_bytes(parts[1].read_bytes())
    first = read(parts[0])
    gap = tmp_path / "gap.h5"
    write(first.rows(slice(1, None)), gap)
    options = tmp_path / "options.h5"
    column = replace(read(parts[1]).columns[0], options={"steps": 9})
    write(replace(read(parts[1]), columns=(column, *read(parts[1]).columns[1:])), options)
    for given, message in [
        (parts[:2], "shard 3 is missing"),
        ([*parts, again], r"1?2\.h5 and .*again\.h5 are both shard 2/3"),
        ([whole, *parts], r"whole\.h5 is no shard"),
        ([parts[0], many, parts[2]], "shards of 3 and of 4"),
        ([parts[0], other, parts[2]], r"1\.h5 has dtype none, .*other\.h5 has float64"),
        ([parts[0], options, parts[2]], r"1\.h5 has columns\.deepfool\.l2\.\w+"),
        ([gap, *parts[1:]], "the shards have sample 1 where 0 should be"),
    ]:
        with pytest.raises(IncompatibleError, match=message):
            merge(out, given)
    assert not out.exists()
    with pytest.raises(MarginkitError, match="no such table"):
        merge(out, [tmp_path / "absent.h5"])


@pytest.mark.parametrize("text", ["1", "a/2", "1/b", "/", "-1/2"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="is not a shard: give i/n"):
        shard(text)
    assert shard("2/8") == (2, 8)


def test_the_command_in_the_file_says_what_was_measured_and_not_where_to():
    given = "measure --out a.h5 --methods pgd --shard=1/3 --resume -q --limit 5 --json - --shard 2/3"
    assert _lasting(given.split()) == ["measure", "--methods", "pgd", "--limit", "5"]


def test_a_part_of_nothing_is_refused(checkpoint_path, tmp_path):
    model, digits = load_checkpoint(checkpoint_path)[0].model(), load("digits")
    for wrong in ((0, 2), (3, 2)):
        with pytest.raises(UsageError, match="there is no shard"):
            measure(model, digits, METHODS, ["l2"], first=10, shard=wrong)
    found = measure(model, digits, METHODS, ["l2"], first=10, batch_size=5, shard=(2, 2))
    np.testing.assert_array_equal(found.index, np.arange(5, 10))
