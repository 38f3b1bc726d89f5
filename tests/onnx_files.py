"""ONNX files that tests make, operation by operation."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

FLOAT = TensorProto.FLOAT


def node(op, inputs, outputs="", **attributes):
    """`node("Gemm", "x w b", "h")`."""
    return helper.make_node(op, inputs.split(), (outputs or "y").split(), **attributes)


def model(nodes, constants=None, shape=(1, 1, 8, 8), *, opset=17, inputs="x", output="y"):
    """A model of nodes and arrays; its first input has the shape, its output any."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name in inputs.split()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in output.split()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def write(path, *args, **kwargs):
    """The model in a file."""
    onnx.save(model(*args, **kwargs), path)
    return path


def mlp(network, flatten=None, last=()):
    """Nodes and constants of Flatten, Linear, ReLU, Linear, ... as PyTorch's exporter writes them."""
    nodes, constants, at = [flatten or node("Flatten", "x", "h0")], {}, "h0"
    for i, layer in enumerate(network):
        if isinstance(layer, nn.Linear):
            constants |= {f"w{i}": layer.weight.detach().numpy(), f"b{i}": layer.bias.detach().numpy()}
            nodes.append(node("Gemm", f"{at} w{i} b{i}", f"h{i}", transB=1))
        elif isinstance(layer, nn.ReLU):
            nodes.append(node("Relu", at, f"h{i}"))
        else:
            continue
        at = f"h{i}"
    for op in last:
        nodes.append(node(op, at, f"{op}_out"))
        at = f"{op}_out"
    nodes.append(node("Identity", at, "y"))
    if last:
        nodes = nodes[:-1]
        nodes[-1].output[0] = "y"
    return nodes, constants
