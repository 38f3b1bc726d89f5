"""One listener hears of everything that takes long: measuring, checking, training, tightening."""

import copy
import json
import sys
import warnings
from collections import defaultdict
from dataclasses import replace
from io import StringIO

import pytest
import torch
from marginkit_cli.output import bars
from quickly import measure

from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.events import (
    BatchDone,
    Begun,
    Checked,
    EpochDone,
    Failed,
    Finished,
    Narrowed,
    NothingNew,
    OutOfMemory,
    Progress,
    Working,
    both,
    tracked,
)
from marginkit.guard import passes
from marginkit.measurement.event_log import LOGGED, EventLog
from marginkit.measurement.tighten import tighten
from marginkit.methods.configure import configure_methods
from marginkit.reliability.examine import PROBES
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

METHODS = configure_methods(["first_order", "deepfool", "pgd"], {"pgd": {"steps": 3}})


def progress(heard):
    """Each task's steps, as they were told."""
    found = defaultdict(list)
    for event in heard:
        if isinstance(event, Progress):
            found[event.task].append((event.done, event.total))
    return found


def whole(total):
    return [(done, total) for done in range(total + 1)]


@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_measurement_tells_every_batch_scale_search_and_check(model, digits, tmp_path, in_a_file):
    heard = []
    out = tmp_path / "a.h5" if in_a_file else None
    settings = {"first": 20, "batch_size": 8, "checks": 4, "out": out}
    measure(model, digits, METHODS, ["l2", "linf"], on_event=heard.append, **settings)
    begun, *rest = heard
    assert begun.samples == {"first_order": 20, "deepfool": 20, "pgd": 20}
    assert (begun.batches, begun.kept) == (3, 0)
    batches = [event for event in rest if isinstance(event, BatchDone)]
    assert [(event.first, event.samples) for event in batches] == [(0, 8), (8, 8), (16, 4)]
    assert all(event.seconds.keys() == METHODS.keys() for event in batches)
    assert progress(rest) == {"scales": whole(-(-len(digits) // 8)), "checks": whole(len(PROBES))}
    assert [event.check for event in rest if isinstance(event, Checked)] == list(PROBES)
    assert isinstance(heard[-1], Finished)


def test_progress_never_stands_still(model, digits, monkeypatch):
    """Whatever a method or a check does, every pass is heard of; in the command once a second."""
    monkeypatch.setattr(passes, "EVERY", 0.0)
    heard = []
    measure(model, digits, METHODS, ["l2"], on_event=heard.append, first=20, checks=4)
    working = [event for event in heard if isinstance(event, Working)]
    tasks = {event.task for event in working}
    assert METHODS.keys() <= tasks
    assert {"no-gradient", "not-monotone", "gradient-free-wins", "not-converged"} <= tasks
    for task in tasks:
        counts = [event.passes for event in working if event.task == task]
        assert counts == sorted(counts) or task in METHODS
    assert all(event.limit is None for event in working if event.task in METHODS)


def test_passes_are_counted_forward_and_back_and_the_hooks_leave(model):
    meter = passes.Meter()
    meter.begin("a", 10.0)
    x = torch.rand(4, 1, 8, 8)
    with meter.counting(model, model):
        with torch.no_grad():
            copy.deepcopy(model)(x)
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(model(leaf).sum(), leaf)
    assert meter.spent == pytest.approx(4 * (2 * passes.FORWARD + passes.BACKWARD))
    assert (meter.has(4.4), meter.has(4.6)) == (True, False)
    assert (meter.fitting(9, 1.0), meter.fitting(3, 1.0), meter.fitting(3, 50.0)) == (4, 3, 1)
    assert not model._forward_pre_hooks
    with warnings.catch_warnings(action="ignore"):  # deprecated, and met all the same
        scripted = torch.jit.trace(model, x)
    with meter.counting(scripted):
        scripted(x)
    meter.begin("b")
    assert (meter.spent, meter.has(1e9), meter.total > 5) == (0, True, True)


def test_training_tells_every_step_and_epoch(tmp_path):
    digits = load("digits", Source(split="train"))
    few, heard = replace(digits, labels=digits.labels[:100]), []
    recipe = Recipe(epochs=2, batch_size=30)
    train(few, tmp_path / "m.pt", architecture="linear", recipe=recipe, on_event=heard.append)
    steps = progress(heard)
    assert steps["epoch 1/2"] == steps["epoch 2/2"] == whole(3)
    assert [event.metrics["epoch"] for event in heard if isinstance(event, EpochDone)] == [1, 2]


def test_tightening_tells_how_many_brackets_are_closed(model, digits):
    table = measure(model, digits, ["nearest", "crown"], ["linf"], first=3)
    heard = []
    found = tighten(table, model, digits, 60.0, on_event=heard.append)
    counts = [event.closed["linf"] for event in heard if isinstance(event, Narrowed)]
    assert counts == sorted(counts)
    assert list(counts[-1]) == found.meta["tightened"][0]["closed"]["linf"] == [3, 3]


def test_items_pass_unchanged_and_two_listeners_hear_the_same():
    one, other = [], []
    assert list(tracked("ab", "letters", 2, both(one.append, other.append))) == ["a", "b"]
    assert one == other == [Progress("letters", done, 2) for done in (0, 1, 2)]


def test_the_log_has_a_line_for_what_happened_and_none_for_progress(tmp_path):
    log = EventLog(tmp_path / "a.h5", rank=3)
    for event in (Progress("checks", 1, 2), Working("pgd", 7), OutOfMemory("pgd", 8), NothingNew("a.h5")):
        log(event)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [{k: v for k, v in line.items() if k != "time"} for line in lines] == [
        {"rank": 3, "event": "out of memory", "column": "pgd", "samples": 8},
        {"rank": 3, "event": "nothing new", "file": "a.h5"},
    ]
    assert set(LOGGED) == {Begun, BatchDone, OutOfMemory, Failed, NothingNew, Checked, Finished}


class Terminal(StringIO):
    def isatty(self):
        return True


def test_bars_show_methods_and_tasks_and_forget_what_is_done(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with bars(quiet=False) as on_event:

        def shown():
            return {task.description: (task.completed, task.total) for task in on_event.display.tasks}

        on_event(Begun({"pgd": 20, "crown": 20}, 2, 0, "here", {}))
        on_event(BatchDone(0, 8, {"pgd": 1.0, "crown": 0.1}))
        on_event(BatchDone(8, 8, {"pgd": 1.0}))
        assert shown() == {"pgd": (16, 20), "crown": (8, 20)}
        assert on_event.display.tasks[0].fields["pace"] == "8/s, 0:00:00 left"
        on_event(Working("pgd", 1234))
        assert on_event.display.tasks[0].fields["pace"] == "1,234 passes"
        on_event(Working("not-converged", 50, 900))
        assert shown()["not-converged"] == (50, 900)
        on_event(Checked("not-converged", False, 0.01, "", "", 600))
        assert "not-converged" not in shown()
        on_event(Progress("checks", 1, 2))
        assert shown()["checks"] == (1, 2)
        on_event(Progress("checks", 2, 2))
        on_event(Narrowed({"l2": (3, 7)}))
        assert shown() == {"pgd": (16, 20), "crown": (8, 20), "l2 closed": (3, 7)}
        on_event(Begun({"nearest": 5}, 1, 0, "here", {}))
        assert shown() == {"nearest": (0, 5)}


def test_without_a_terminal_nothing_is_shown(capfd):
    with bars(quiet=False) as on_event:
        on_event(Begun({"pgd": 20}, 2, 0, "here", {}))
    assert capfd.readouterr() == ("", "")
