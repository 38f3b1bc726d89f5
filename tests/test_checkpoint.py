"""Models and their files."""

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


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.pt"
    save(checkpoint(), path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        save(replace(checkpoint(), training={"bad": lambda: 0}), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
