"""Models by spec: what may run code runs only when the user says so, and misfits are one sentence."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from quickly import measure_file
from torch import nn

from marginkit.errors import MarginkitError, UsageError
from marginkit.models.architectures import Normalize
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.models.checkpoint import save
from marginkit.models.loading import Loading, load_subject

MODULE = """
import torch
from torch import nn

def small(width=8, fail=False):
    if fail:
        raise KeyError("width")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

def number():
    return 3

class Pair(nn.Module):
    def forward(self, x):
        return x, None

class Five(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :5]

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.mix, self.fc = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.mix(self.rnn(x.squeeze(1))[0][:, -1]).relu())

def wide():
    return nn.Linear(7, 10)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's that is not installed, in a folder of its own."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "mynets.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    yield tmp_path / "app"
    sys.modules.pop("mynets", None)


def loaded(spec, dataset="digits", **loading):
    return load_subject(spec, Loading(**loading), dataset)


def test_a_factory_with_weights_is_measured(module, tmp_path):
    sys.path.insert(0, str(module))
    import mynets

    sys.path.remove(str(module))
    torch.manual_seed(3)
    model = mynets.small(5)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pt")
    asked = Loading(options={"width": "5"}, weights=tmp_path / "w.pt", app_dir=module)
    table, remarks = measure_file(
        "mynets:small", ["deepfool"], ["l2"], loading=asked, dataset="digits", first=4
    )
    x = load_subject("mynets:small", asked, "digits").data.inputs([0, 1, 2, 3])
    assert table.predicted.tolist() == model(x).argmax(1).tolist()
    assert remarks == ["took the prefix 'module.' off every weight's name"]
    about = table.meta["checkpoint"]
    assert (about["file"], about["spec"], about["normalization"]) == ("w.pt", "mynets:small", None)
    json.dumps(about)


def test_a_factory_without_weights_says_so_and_is_told_apart_by_its_numbers(module):
    torch.manual_seed(0)
    first = loaded("mynets:small", app_dir=module)
    second = loaded("mynets:small", app_dir=module)
    assert "no --weights were given" in first.remarks[0]
    assert first.about["sha256"] != second.about["sha256"]
    assert not first.model.training


def test_a_remark_names_the_stages_that_the_default_layers_leave_out(module):
    asked = {"loading": Loading(app_dir=module), "dataset": "digits", "first": 4}
    table, remarks = measure_file("mynets:Recurrent", ["first_order"], ["l2"], **asked)
    assert [column.layer for column in table.columns] == ["input", "mix"]
    assert remarks[-1] == "default layers leave out rnn (gives tuple)"
    for quiet in ({"methods": ["deepfool"]}, {"methods": ["first_order"], "layers": ("input", "mix")}):
        assert len(measure_file("mynets:Recurrent", norms=["l2"], **quiet, **asked)[1]) == 1


@pytest.mark.parametrize(
    ("spec", "loading", "message"),
    [
        ("mynets:absent", {}, "has no function 'absent'"),
        ("mynets:number", {}, "returned a int; expected a torch.nn.Module"),
        ("mynets:small", {"options": {"depth": "3"}}, "mynets:small can't be made: TypeError.*depth"),
        ("mynets:small", {"options": {"fail": "true"}}, "can't be made: KeyError: 'width'"),
        (
            "mynets:Pair",
            {},
            r"answers with a tuple of \[2, 1, 8, 8\], NoneType; expected a tensor \[2, classes\]",
        ),
        ("mynets:Five", {}, "has 5 scores, but digits has the label 9"),
        ("mynets:wide", {}, r"does not take 2 inputs of shape \[1, 8, 8\] from digits"),
        ("mynets:small", {"architecture": "mlp"}, "--arch is for files of bare weights"),
        ("nowhere_at_all:small", {}, "no module 'nowhere_at_all': install it, or say.*--app-dir"),
    ],
)
def test_factories_that_do_not_fit_are_refused(module, spec, loading, message):
    with pytest.raises(MarginkitError, match=message):
        loaded(spec, app_dir=module, **loading)


def test_the_current_folder_is_not_searched_for_code(module, monkeypatch):
    monkeypatch.chdir(module)
    with pytest.raises(MarginkitError, match="no module 'mynets'"):
        loaded("mynets:small")
    assert str(module) not in sys.path
    loaded("mynets:small", app_dir=module)
    assert str(module) not in sys.path


def test_weights_that_do_not_fit_are_named(module, tmp_path):
    torch.save({"1.weight": torch.zeros(3, 3)}, tmp_path / "w.pt")
    with pytest.raises(MarginkitError, match=r"w\.pt does not fit mynets:small: Missing key"):
        loaded("mynets:small", app_dir=module, weights=tmp_path / "w.pt")
    with pytest.raises(MarginkitError, match="no such file of weights"):
        loaded("mynets:small", app_dir=module, weights=tmp_path / "absent.pt")


def test_other_models_need_a_data_set_and_checkpoints_no_weights(checkpoint_path, module, tmp_path):
    with pytest.raises(UsageError, match="does not say what it was trained on: give --dataset"):
        loaded("mynets:small", None, app_dir=module)
    with pytest.raises(UsageError, match="--weights is for a factory"):
        loaded(checkpoint_path, weights=tmp_path / "w.pt")


def test_a_file_never_names_the_code_to_run(checkpoint_path, tmp_path, module):
    """An architecture of the form module:function is just an unknown architecture."""
    from dataclasses import replace

    checkpoint, _ = load_checkpoint(checkpoint_path)
    save(replace(checkpoint, architecture="mynets:small"), tmp_path / "m.pt")
    with pytest.raises(UsageError, match="unknown architecture 'mynets:small'"):
        loaded(tmp_path / "m.pt", app_dir=module)


ELSEWHERE = ["npz:/etc/x.npz", "npz:../x.npz", "imagefolder:C:\\x", "npz:\\\\host\\x", "npz:a\0"]


@pytest.mark.parametrize("named", ELSEWHERE)
def test_a_checkpoint_can_not_lead_to_data_elsewhere(checkpoint_path, tmp_path, named):
    from dataclasses import replace

    checkpoint, _ = load_checkpoint(checkpoint_path)
    save(replace(checkpoint, dataset={"name": named}), tmp_path / "m.pt")
    with pytest.raises(MarginkitError, match=r"outside the current folder.*--dataset"):
        load_subject(tmp_path / "m.pt", Loading())


# Programs ---------------------------------------------------------------------------------------------


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)).eval()


def script(model, path):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, torch.rand(2, 1, 8, 8)), path)


def export(model, path, dynamic=True):
    import warnings

    shapes = ({0: torch.export.Dim("n")},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(model, (torch.rand(2, 1, 8, 8),), dynamic_shapes=shapes), path)


@pytest.mark.parametrize(
    ("write", "name"), [(script, "m.pt"), (export, "m.pt2")], ids=["TorchScript", "export"]
)
def test_programs_need_trust_and_then_measure_as_their_source_does(network, tmp_path, write, name):
    write(network, tmp_path / name)
    with pytest.raises(UsageError, match=r"a program, which may do anything that you may.*--trust"):
        loaded(tmp_path / name)
    found = loaded(tmp_path / name, trust=True)
    x = found.data.inputs(list(range(6)))
    torch.testing.assert_close(found.model(x), network(x))
    table, _ = measure_file(
        tmp_path / name,
        ["first_order", "deepfool"],
        ["l2"],
        loading=Loading(trust=True),
        dataset="digits",
        first=6,
    )
    assert [c.name for c in table.columns] == ["first_order.l2.input", "deepfool.l2"]
    with pytest.raises(UsageError, match="takes no"):
        loaded(tmp_path / name, trust=True, options={"width": "3"})


def test_an_export_for_one_size_of_batch_is_refused(network, tmp_path):
    export(network, tmp_path / "m.pt2", dynamic=False)
    with pytest.raises(MarginkitError, match=r"m\.pt2 does not take 1 inputs of shape \[1, 8, 8\]"):
        loaded(tmp_path / "m.pt2", trust=True)


def test_a_broken_program_is_one_sentence(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/code/x.py", "import os")
    with pytest.raises(MarginkitError, match=r"m\.pt is no TorchScript file that loads here"):
        loaded(tmp_path / "m.pt", trust=True)


# Libraries --------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.random((4, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=np.array([0, 1, 2, 1]))
    return f"npz:{tmp_path / 'x.npz'}"


def test_torchvisions_models_are_normalised_as_their_weights_were(pictures, tmp_path):
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    model = squeezenet1_1(num_classes=3).eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    found = loaded("torchvision:squeezenet1_1", pictures, weights=tmp_path / "w.pt")
    x = found.data.inputs([0, 1])
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
        torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
    )
    torch.testing.assert_close(found.model(x), model((x - mean) / std))
    assert isinstance(found.model.normalize, Normalize)
    assert found.about["normalization"]["mean"] == (0.485, 0.456, 0.406)
    assert "inputs are normalised as SqueezeNet1_1_Weights.IMAGENET1K_V1 is" in found.remarks[0]


def test_torchvisions_weights_come_from_the_cache_or_are_asked_for(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MarginkitError, match=r"squeezenet1_1.*\.pth is missing: add --download to fetch it"):
        loaded("torchvision:squeezenet1_1", pictures)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "squeezenet1_1-b8a52dc0.pth").write_text("something else")
    with pytest.raises(MarginkitError, match="its SHA-256 differs; delete it"):
        loaded("torchvision:squeezenet1_1", pictures)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("torchvision:resnet19", {}, "torchvision has no classifier 'resnet19'"),
        ("torchvision:raft_small", {}, "torchvision has no classifier"),
        (
            "torchvision:resnet18",
            {"weights": "NEWEST"},
            "no weights 'NEWEST'; choose from IMAGENET1K_V1",
        ),
    ],
)
def test_what_torchvision_does_not_have_is_said(pictures, spec, options, message):
    with pytest.raises(UsageError, match=message):
        loaded(spec, pictures, options=options)


def test_inputs_of_other_channels_are_refused(tmp_path):
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(num_classes=10).state_dict(), tmp_path / "w.pt")
    with pytest.raises(MarginkitError, match=r"takes images of 3 channels; these inputs are \[1, 8, 8\]"):
        loaded("torchvision:squeezenet1_1", weights=tmp_path / "w.pt")


@pytest.mark.parametrize(("name", "extra"), [("timm", "timm"), ("transformers", "hf")])
def test_a_library_that_is_absent_is_named_with_its_extra(pictures, monkeypatch, name, extra):
    monkeypatch.setitem(sys.modules, name, None)
    spec = {"timm": "timm:resnet18", "transformers": "hf:org/name"}[name]
    with pytest.raises(MarginkitError, match=rf"{name} is not installed: pip install 'marginkit\[{extra}\]'"):
        loaded(spec, pictures)


def has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.mark.skipif(not has("timm"), reason="timm is not installed")
@pytest.mark.filterwarnings("ignore")
def test_timms_models_with_the_users_weights(pictures, tmp_path, monkeypatch):
    import timm

    model = timm.create_model("test_vit", num_classes=3, img_size=32).eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    found = loaded("timm:test_vit", pictures, weights=tmp_path / "w.pt", options={"img_size": "32"})
    x = found.data.inputs([0, 1])
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(found.model(x), model((x - mean) / std))
    with pytest.raises(UsageError, match="timm has no model 'resnet19'"):
        loaded("timm:resnet19", pictures)
    with pytest.raises(
        UsageError, match="takes no option 'pretrained': its weights are the hub's, or those of"
    ):
        loaded("timm:test_vit", pictures, options={"pretrained": "false"})
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(MarginkitError, match="add --download to fetch what is missing"):
        loaded("timm:test_vit", pictures)


@pytest.mark.skipif(not has("transformers"), reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore")
def test_hugging_faces_models_from_a_folder(pictures, tmp_path):
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
        patch_size=8, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "vit")
    about = {"image_processor_type": "ViTImageProcessor", "do_normalize": True, "image_mean": [0.5] * 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps({**about, "image_std": [0.25] * 3}))
    found = loaded(f"hf:{tmp_path / 'vit'}", pictures)
    x = found.data.inputs([0, 1])
    torch.testing.assert_close(found.model(x), model((x - 0.5) / 0.25).logits)
    with pytest.raises(MarginkitError, match=r"hf:nobody/nothing can't be made.*add --download"):
        loaded("hf:nobody/nothing", pictures)


def test_weights_of_a_lightning_run_fit_a_factory_and_a_library(module, pictures, tmp_path):
    """Under a prefix, with a criterion beside them, and for more classes than the data has."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model("shufflenet_v2_x0_5", num_classes=6).eval()
    state = {f"net.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": {**state, "criterion.weight": torch.ones(6)}, "epoch": 3}, tmp_path / "l.ckpt")
    for options in ({}, {"num_classes": "6"}, {"classes": "6"}):
        found = loaded(
            "torchvision:shufflenet_v2_x0_5", pictures, weights=tmp_path / "l.ckpt", options=options
        )
        x = found.data.inputs([0, 1])
        normalize = found.model[0]
        torch.testing.assert_close(found.model(x), model(normalize(x)))
        assert "took the prefix 'net.' off the weights' names" in found.remarks
        assert "left out what is not the model's: criterion.weight" in found.remarks
        assert ("the weights have 6 classes, the data 3" in found.remarks) == (not options)


def test_accuracy_of_a_factory(module, tmp_path, capsys):
    from marginkit_cli.main import main

    with pytest.raises(SystemExit) as done:
        main(["evaluate", "--model", "mynets:small", "--app-dir", str(module), "--dataset", "digits"])
    assert done.value.code == 0
    assert "noise 0: accuracy" in capsys.readouterr().out
