"""Other people's architectures through the default `measure`: `python tests/benchmarks/zoo.py [--only PART]`.

Random weights, small pictures, the default methods (first order at the default layers, and `nearest`, here
with effort `fast`), l2 and linf. Every adversarial input is looked at once more, alone in its batch:
misclassified, inside the box, and as far as the table says. A row says at how many layers first order was
measured and what the defaults left out; an error is shown as the user would see it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import click
import numpy as np
import torch
from torch import Tensor, nn

from marginkit.data.dataset import Data
from marginkit.errors import MarginkitError
from marginkit.kinds import Kind
from marginkit.layers import find_stages
from marginkit.measurement.measure import measure
from marginkit.methods.first_order import FirstOrder
from marginkit.methods.nearest import Nearest
from marginkit.table.table import MarginTable

CLASSES = 5
TORCHVISION = {
    "alexnet": 64, "vgg11": 32, "vgg11_bn": 32, "resnet18": 32, "resnext50_32x4d": 32, "squeezenet1_1": 64,
    "densenet121": 32, "googlenet": 64, "inception_v3": 96, "mobilenet_v2": 32, "mobilenet_v3_small": 32,
    "shufflenet_v2_x0_5": 32, "mnasnet0_5": 32, "efficientnet_b0": 32, "regnet_y_400mf": 32,
}  # fmt: skip
TIMM = {
    "resnet18": 32, "resnet26d": 32, "seresnet18": 32, "skresnet18": 32, "res2net50_14w_8s": 32,
    "nf_resnet26": 32, "convnext_atto": 32, "efficientnet_b0": 32, "mobilenetv3_small_050": 32,
    "regnetx_002": 32, "vgg11": 32, "dla46_c": 32, "dpn48b": 64, "levit_128s": 224, "mobilevit_xxs": 64,
    "mobilevitv2_050": 64, "coat_lite_tiny": 64, "pit_ti_224": 64, "xcit_nano_12_p16_224": 64,
    "edgenext_xx_small": 64, "fastvit_t8": 64, "repvgg_a0": 32, "ghostnet_050": 32, "tinynet_e": 32,
    "lcnet_035": 32, "hardcorenas_a": 32, "vit_tiny_patch16_224": 64, "deit_tiny_distilled_patch16_224": 64,
    "swin_tiny_patch4_window7_224": 56, "mixer_s32_224": 64, "resmlp_12_224": 64, "crossvit_tiny_240": 240,
    "poolformer_s12": 64, "tiny_vit_5m_224": 64, "hiera_tiny_224": 224,
}  # fmt: skip
HUGGING_FACE = ("vit", "deit", "swin", "convnext", "resnet")


def torchvision(name: str, size: int) -> nn.Module:
    """A classifier of torchvision's as it is made."""
    from torchvision import models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # googlenet's and inception's, of how slowly they are made
        model: nn.Module = models.get_model(name, weights=None, num_classes=CLASSES)
    return model


def timm(name: str, size: int) -> nn.Module:
    """A classifier of timm's for pictures of this size."""
    import timm as library

    try:
        model: nn.Module = library.create_model(name, num_classes=CLASSES, img_size=size)
    except TypeError:  # those that take any size
        model = library.create_model(name, num_classes=CLASSES)
    return model


def hugging_face(family: str, size: int = 32) -> nn.Module:
    """A small classifier of that family of transformers', whose answer is an object with logits."""
    import transformers as library

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    patches = {"image_size": size, "patch_size": 8}
    prefix, options = {
        "vit": ("ViT", {**small, **patches}),
        "deit": ("DeiT", {**small, **patches}),
        "swin": (
            "Swin",
            {"image_size": size, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2],
             "window_size": 4},
        ),
        "convnext": ("ConvNext", {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1]}),
        "resnet": (
            "ResNet",
            {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "layer_type": "basic"},
        ),
    }[family]  # fmt: skip
    config = getattr(library, f"{prefix}Config")(**options, num_labels=CLASSES)
    return Logits(getattr(library, f"{prefix}ForImageClassification")(config))


class Logits(nn.Module):
    """What `hf:` puts around a model."""

    def __init__(self, network: nn.Module) -> None:
        """Answers with the network's logits."""
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        logits: Tensor = self.network(x).logits
        return logits


def made(source: str, name: str) -> tuple[nn.Module, int]:
    """The model in eval mode with random weights, and the size of its pictures."""
    make: dict[str, tuple[Callable[..., nn.Module], int]] = {
        "torchvision": (torchvision, TORCHVISION.get(name, 32)),
        "timm": (timm, TIMM.get(name, 64)),
        "hf": (hugging_face, 32),
    }
    torch.manual_seed(0)
    build, size = make[source]
    model = build(name, size)
    for parameter in model.parameters():  # many start with a head of zeros, or weights that hear no input
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
    return settled(model.eval(), size), size


def settled(model: nn.Module, size: int) -> nn.Module:
    """The model with BatchNorm's means and variances of some pictures, as after training."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        model(torch.rand(16, 3, size, size, generator=torch.Generator().manual_seed(2)))
    return model.eval()


def measured(model: nn.Module, size: int, samples: int = 2) -> tuple[MarginTable, Data]:
    """The default measurement, of pictures labelled as the model sees them."""
    x = torch.rand(samples, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model(x).argmax(1).numpy()
    data = Data("pictures", "test", lambda rows: x[rows], labels, (3, size, size), CLASSES, "f")
    methods = {"first_order": FirstOrder(), "nearest": Nearest(effort="fast")}
    return measure(model, data, methods, ["l2", "linf"], witnesses=True), data


def refuted(model: nn.Module, table: MarginTable, data: Data) -> list[str]:
    """What is wrong with the table's numbers, in words."""
    problems = []
    x = data.inputs(list(range(len(data))))
    for column in table.columns:
        if column.kind is Kind.ESTIMATE:
            problems += [f"{column.name} is not finite"] * int(not np.isfinite(column.distance).all())
            continue
        assert column.witness is not None
        for i, distance in enumerate(column.distance):
            if not np.isfinite(distance):
                continue  # a random network may see one class everywhere: that it found nothing is an answer
            witness = torch.from_numpy(column.witness[i])
            moved = (witness.double() - x[i].double()).flatten()
            length = moved.norm(2 if column.norm == "l2" else torch.inf).item()
            with torch.no_grad():
                fooled = model(witness[None]).argmax() != data.labels[i]
            if not (fooled and witness.min() >= 0 and witness.max() <= 1 and abs(length - distance) < 1e-6):
                problems.append(f"{column.name}: the witness of sample {i} does not hold")
    return problems


def row(source: str, name: str) -> tuple[str, bool]:
    """One line of the table, and whether all is well."""
    try:
        model, size = made(source, name)
        table, data = measured(model, size)
        problems = refuted(model, table, data)
        stages = find_stages(model, data.inputs([0, 1]))
    except MarginkitError as error:
        return f"| `{source}:{name}` | | refused: {error} |", False
    ends = [column.distance for column in table.columns if column.kind is not Kind.ESTIMATE]
    missing = int((~np.isfinite(ends)).sum())
    notes = [*problems, f"{missing} of {np.size(ends)} searches found nothing" if missing else "",
             stages.remark() or ""]  # fmt: skip
    found = "; ".join(filter(None, notes))
    return f"| `{source}:{name}` | {len(stages.names)} | {found} |", not problems


@click.command()
@click.option("--only", default="", help="Names that have this in them.")
def main(only: str) -> None:
    """Prints the table of docs/models.md."""
    asked = [("hf", name) for name in HUGGING_FACE]
    asked += [("torchvision", name) for name in TORCHVISION] + [("timm", name) for name in TIMM]
    passed: dict[str, list[bool]] = {}
    for source, name in asked:
        if only in f"{source}:{name}":
            line, well = row(source, name)
            passed.setdefault(source, []).append(well)
            print(line, flush=True)
    for source, wells in passed.items():
        print(f"{source}: {sum(wells)} of {len(wells)}")


if __name__ == "__main__":
    main()
