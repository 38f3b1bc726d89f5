"""The guard around what tests share notices what it is there for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from unchanged import fingerprint, unchanged

from marginkit.data.sources import load


def changed(model: nn.Module, how: str) -> None:
    match how:
        case "weights":
            model[0].weight.data += 1e-6
        case "buffers":
            model[1].running_mean += 1
        case "mode":
            model[1].train(not model[1].training)
        case "grad":
            model(torch.rand(3, 4)).sum().backward()
        case "requires_grad":
            model.requires_grad_(False)
        case "hooks":
            model[0].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize("how", ["weights", "buffers", "mode", "grad", "requires_grad", "hooks"])
def test_a_network_changed_in_place_is_noticed(how):
    with (
        pytest.raises(AssertionError, match="changed a shared Sequential in place"),
        unchanged(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()) as model,
    ):
        changed(model, how)


def test_tensors_files_and_data_sets_are_watched_too(tmp_path):
    x, path, digits = torch.rand(3), tmp_path / "file", load("digits")
    path.write_text("a")
    before = [fingerprint(value) for value in ((x, x), path, digits)]
    x += 1
    path.write_text("b")
    digits.labels[0] += 1
    assert all(fingerprint(v) != b for v, b in zip(((x, x), path, digits), before, strict=True))


def test_what_is_only_used_is_as_it_was():
    with unchanged(nn.Sequential(nn.Linear(4, 3), nn.ReLU())) as model:
        model(torch.rand(2, 4))
        replace(load("digits"), name="other")
