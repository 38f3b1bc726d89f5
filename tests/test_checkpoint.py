"""Models and their files."""

import re
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from marginkit.errors import MarginkitError, UsageError
from marginkit.models.architectures import ARCHITECTURES, Normalize
from marginkit.models.checkpoint import FORMAT, Checkpoint, load, save

architectures = pytest.mark.parametrize("name", ARCHITECTURES)
endings = pytest.mark.parametrize("ending", [".pt", ".safetensors"])


def checkpoint(name="mlp", shape=(1, 16, 16), **options) -> Checkpoint:
    model = ARCHITECTURES[name](**options)(shape, 4)
    return Checkpoint(
        model.state_dict(), name, options, shape, 4, (0.0, None), {"name": "digits"}, {"loss": "x"}
    )


@pytest.mark.quick
@architectures
@endings
def test_round_trip(tmp_path, name, ending):
    before = checkpoint(name)
    path = tmp_path / f"model{ending}"
    save(before, path)
    after, remarks = load(path)
    assert not remarks
    assert replace(after, state={}) == replace(before, state={})
    x = torch.rand(3, 1, 16, 16)
    assert torch.equal(after.model()(x), before.model()(x))
    assert not after.model().training


@architectures
def test_raw_inputs_are_normalised_by_the_first_layer(name):
    model = ARCHITECTURES[name]()((2, 8, 8), 3)
    assert next(iter(dict(model.named_children()))) == "normalize"
    assert isinstance(model.normalize, Normalize)


def test_normalize_takes_the_datas_mean_and_deviation():
    x = torch.rand(50, 3, 4, 4) * torch.tensor([1.0, 5.0, 0.0]).view(3, 1, 1) + 2
    layer = Normalize((3, 4, 4))
    layer.fit([x[:20], x[20:]])
    assert_close(layer.mean.flatten(), x.mean((0, 2, 3)))
    assert_close(layer.std.flatten()[:2], x.std((0, 2, 3), correction=0)[:2], rtol=1e-5, atol=1e-5)
    assert layer.std.flatten()[2] == 1, "a constant channel is not divided by zero"
    assert_close(layer(x)[:, :2].mean(), torch.tensor(0.0), rtol=0, atol=1e-5)


def test_a_file_loads_without_running_code(tmp_path):
    save(checkpoint(), tmp_path / "model.pt")
    plain = torch.load(tmp_path / "model.pt", weights_only=True)
    assert plain["format"] == FORMAT


@pytest.mark.parametrize("name", ["cnn", "elsayed", "resnet18"])
def test_image_networks_refuse_other_inputs(name):
    for shape in [(10,), (1, 2, 2)]:
        with pytest.raises(MarginkitError, match=f"{name} takes images"):
            ARCHITECTURES[name]()(shape, 4)


@pytest.mark.parametrize("halve", ["pool", "stride"])
@pytest.mark.parametrize("size", [(8, 8), (9, 11)])
def test_convolutions_halve_images_of_any_size(halve, size):
    model = ARCHITECTURES["cnn"](channels=(3, 4), kernel=3, halve=halve)((1, *size), 5)
    assert model(torch.zeros(2, 1, *size)).shape == (2, 5)
    assert any(isinstance(m, torch.nn.MaxPool2d) for m in model.modules()) == (halve == "pool")


@pytest.mark.parametrize(("stride", "sizes"), [(1, [16, 16, 8]), (2, [8, 8, 4])])
def test_a_residual_networks_first_convolution_may_halve_the_image(stride, sizes):
    model = ARCHITECTURES["resnet"](width=4, blocks=(1, 1), stride=stride)((3, 16, 16), 5)
    found, x = [], torch.rand(2, 3, 16, 16)
    for stage in model:
        x = stage(x)
        found.append(x.shape[-1])
    assert found[1:4] == sizes
    with pytest.raises(MarginkitError, match="resnet takes images"):
        ARCHITECTURES["resnet"](blocks=(1, 1), stride=2)((3, 3, 3), 5)


def test_weights_that_do_not_fit_are_named():
    good = checkpoint()
    state = {**good.state, "stray": torch.zeros(1), "scores.bias": torch.zeros(7)}
    del state["hidden1.0.weight"]
    with pytest.raises(MarginkitError) as error:
        replace(good, state=state).model()
    for part in ("missing hidden1.0.weight", "unexpected stray", r"scores.bias is [7], expected [4]", "mlp"):
        assert part in str(error.value)


def test_unknown_architectures_and_options_are_refused():
    with pytest.raises(UsageError, match="unknown architecture 'vgg'; choose from linear"):
        replace(checkpoint(), architecture="vgg").model()
    with pytest.raises(UsageError, match="mlp has no option 'depth'; it has hidden"):
        replace(checkpoint(), options={"depth": 3}).model()


GUESS = {"architecture": "mlp", "options": {}, "shape": (1, 16, 16), "classes": 4}


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_bare_weights_load_with_an_architecture(tmp_path, prefix, wrapped):
    state = {prefix + key: value for key, value in checkpoint().state.items()}
    torch.save({wrapped: state} if wrapped else state, tmp_path / "weights.pt")
    found, remarks = load(tmp_path / "weights.pt", GUESS)
    found.model()
    assert remarks == ([f"took the prefix {prefix!r} off every weight's name"] if prefix else [])


def test_bare_weights_without_an_architecture_say_what_to_do(tmp_path):
    torch.save(checkpoint().state, tmp_path / "weights.pt")
    with pytest.raises(MarginkitError, match=r"holds weights only: say which architecture.*--arch"):
        load(tmp_path / "weights.pt")


class Malicious:
    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('owned').touch()",)


@pytest.mark.quick
def test_what_is_no_checkpoint_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state": Malicious()}, tmp_path / "malicious.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    torch.save({"format": FORMAT, "version": 99}, tmp_path / "newer.pt")
    torch.save({"format": FORMAT, "version": 1, "state": {}}, tmp_path / "partial.pt")
    (tmp_path / "page.pt").write_text("<html>quota exceeded</html>")
    (tmp_path / "page.safetensors").write_text("<html>quota exceeded</html>")
    (tmp_path / "empty.pt").touch()
    save(checkpoint(), tmp_path / "good.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:2000])
    for name, message in [
        ("malicious.pt", "not a checkpoint that loads safely"),
        ("list.pt", "holds a list; expected a dict"),
        ("numbers.pt", "neither a marginkit checkpoint nor a dict of weights"),
        ("newer.pt", "version 99; this marginkit reads 1"),
        ("partial.pt", "with parts missing"),
        ("page.pt", "not a checkpoint that loads safely"),
        ("page.safetensors", "not a safetensors file"),
        ("empty.pt", "not a checkpoint"),
        ("half.pt", "not a checkpoint"),
        ("absent.pt", "no such checkpoint"),
    ]:
        with pytest.raises(MarginkitError, match=message):
            load(tmp_path / name, GUESS)
    assert not (tmp_path / "owned").exists()


SMALL = {"architecture": "mlp", "options": {"hidden": [6]}, "shape": (1, 4, 4), "classes": 3}


def weights(classes=3, hidden=(6,), seed=0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return ARCHITECTURES["mlp"](hidden=hidden)((1, 4, 4), classes).state_dict()


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def read(tmp_path, content, guess=SMALL, key=None):
    torch.save(content, tmp_path / "w.pt")
    return load(tmp_path / "w.pt", guess, key)


@pytest.mark.parametrize(
    "prefix", ["model.", "net.", "module.model.", "_orig_mod.module.", "model._orig_mod.", "a.b.c.d."]
)
@pytest.mark.parametrize(
    "beside",
    [
        {},
        {"criterion.weight": torch.ones(3)},
        {"n_averaged": torch.tensor(4)},
        {"loss_fn.margin": torch.ones(1), "val_acc.total": torch.zeros(())},
    ],
    ids=["alone", "criterion", "average", "loss and metric"],
)
def test_any_prefix_that_the_weights_share_is_taken_off_and_what_lies_beside_is_left(
    tmp_path, prefix, beside
):
    found, remarks = read(tmp_path, {"state_dict": {**beside, **prefixed(prefix, weights())}})
    assert all(torch.equal(found.state[name], value) for name, value in weights().items())
    found.model()
    assert f"took the prefix {prefix!r} off" in remarks[0]
    assert len(remarks) == 1 + bool(beside)
    assert all(name in remarks[1] for name in beside)


def test_counters_of_a_profiler_and_a_criterion_are_left_where_nothing_has_a_prefix(tmp_path):
    counters = {
        "total_ops": torch.ones(1),
        "hidden1.total_params": torch.ones(1),
        "criterion.w": torch.ones(2),
    }
    found, remarks = read(tmp_path, {**weights(), **counters})
    found.model()
    assert all(name in remarks[0] for name in counters)


def test_another_layer_is_never_left_in_silence(tmp_path):
    """Its weights would all fit a network without it."""
    deeper = weights(hidden=(6, 6))
    for content in (deeper, prefixed("model.", deeper), {"net": prefixed("module.", deeper)}):
        found, _ = read(tmp_path, content)
        with pytest.raises(MarginkitError, match=r"unexpected hidden2\.0\.weight"):
            found.model()


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "best_state_dict", "ema", "weights", "params"])
@pytest.mark.parametrize(
    "beside", [{}, {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}]
)
def test_weights_are_found_in_whatever_part_of_the_file(tmp_path, key, beside):
    for content in ({**beside, key: weights()}, {**beside, "checkpoint": {key: weights(), "step": 1}}):
        found, remarks = read(tmp_path, content)
        found.model()
        assert torch.equal(found.state["scores.bias"], weights()["scores.bias"])
        assert not remarks


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"state_dict": weights(), "state_dict_ema": weights(seed=1)}, ["state_dict", "state_dict_ema"]),
        ({"model": weights(), "best": {"net": weights(seed=1)}}, ["model", "best.net"]),
        (
            {"state_dict": {**prefixed("model.", weights()), **prefixed("ema.module.", weights(seed=1))}},
            ["model", "ema.module"],
        ),
    ],
)
def test_the_same_weights_more_than_once_have_to_be_chosen_from(tmp_path, content, keys):
    with pytest.raises(MarginkitError, match=r"more than once.*choose with --weights-key") as error:
        read(tmp_path, content)
    assert all(key in str(error.value) for key in keys)
    for seed, key in enumerate(keys):
        found, _ = read(tmp_path, content, key=key)
        assert torch.equal(found.state["scores.bias"], weights(seed=seed)["scores.bias"])
    with pytest.raises(UsageError, match=r"has no weights 'nothing'; it has"):
        read(tmp_path, content, key="nothing")


def test_the_same_numbers_twice_need_no_choice(tmp_path):
    found, _ = read(tmp_path, {"model": weights(), "model_copy": weights()})
    found.model()


def test_more_classes_in_the_weights_than_in_the_data_are_the_models(tmp_path):
    found, remarks = read(tmp_path, weights(classes=7))
    assert (found.classes, found.model()[-1].out_features) == (7, 7)
    assert remarks == ["the weights have 7 classes, the data 3"]
    for asked in (7, "7"):
        options = {**SMALL["options"], "classes": asked}
        found, remarks = read(tmp_path, weights(classes=7), {**SMALL, "options": options})
        assert (found.classes, found.options, remarks) == (7, SMALL["options"], [])
    with pytest.raises(UsageError, match="classes=many: expected a number"):
        read(tmp_path, weights(), {**SMALL, "options": {"classes": "many"}})
    found, _ = read(tmp_path, weights(classes=2))
    with pytest.raises(MarginkitError, match=r"scores.weight is \[2, 6\], expected \[3, 6\]"):
        found.model()


def test_records_of_a_run_beside_the_weights_are_no_obstacle(tmp_path):
    import argparse

    import numpy as np

    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "seen": np.int64(3)}
    found, _ = read(tmp_path, {"state_dict": weights(), **beside})
    found.model()


class Pickled(torch.nn.Linear):
    """A class of the user's."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty: fetch or copy it again"),
        (b"<!DOCTYPE html><html>sign in</html>", "it is a web page"),
        (b"\n  <HTML><body>404</body>", "it is a web page"),
        (b'<?xml version="1.0"?><Error>NoSuchKey</Error>', "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "run `git lfs pull`"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "it is an HDF5 file"),
        (b"\x1f\x8b" + bytes(40), "packed with gzip: unpack it first"),
        (b'{"message": "Not Found"}', r"it is a text file \(JSON\)"),
        (b"\x80\x02}q\x00." * 3, "damaged, cut off, or of another format|neither a marginkit checkpoint"),
        (b"PK\x03\x04" + bytes(99), "damaged, cut off, or of another format"),
        (
            Pickled(2, 2),
            r"holds a pickled object of test_checkpoint\.Pickled.*torch\.save\(model\.state_dict",
        ),
        ({"net": Pickled(2, 2)}, "holds a pickled object of test_checkpoint"),
    ],
)
@endings
def test_what_a_file_is_instead_is_said_without_advice_to_load_unsafely(tmp_path, content, message, ending):
    path = tmp_path / f"w{ending}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(MarginkitError, match=r"not a (safetensors file|checkpoint)|neither") as error:
        load(path, SMALL)
    assert ending == ".safetensors" or re.search(message, str(error.value))
    assert "weights_only" not in str(error.value)
    assert "\n" not in str(error.value)


def test_the_format_is_what_the_file_begins_with_whatever_it_is_called(tmp_path):
    save(checkpoint(), tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.bin")
    save(checkpoint(), tmp_path / "b.pt")
    (tmp_path / "b.pt").rename(tmp_path / "b.safetensors")
    for name in ("a.bin", "b.safetensors"):
        load(tmp_path / name)[0].model()


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.pt"
    save(checkpoint(), path)
    before = path.read_bytes()
    with pytest.raises(Exception, match=r"pickle|local object"):  # in the words of 3.12, and of 3.13
        save(replace(checkpoint(), training={"bad": lambda: 0}), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
