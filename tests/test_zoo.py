"""Other people's architectures, the fastest of `benchmarks/zoo.py`, through the default measurement."""

import pytest
from benchmarks import zoo

FAST = {
    "hf": ["vit", "swin", "convnext", "resnet"],
    "timm": ["lcnet_035", "tinynet_e"],
    "torchvision": ["squeezenet1_1", "shufflenet_v2_x0_5"],
}
NEEDS = {"hf": "transformers", "timm": "timm", "torchvision": "torchvision"}


@pytest.mark.parametrize(("source", "name"), [(source, name) for source in FAST for name in FAST[source]])
def test_the_default_measurement_holds(source, name):
    pytest.importorskip(NEEDS[source])
    model, size = zoo.made(source, name)
    table, data = zoo.measured(model, size)
    assert not zoo.refuted(model, table, data)
    assert len(table.columns) > 3, "at least one hidden layer"
