"""Write the torch weights of the shipped mask head, read back from its graph.

    python tools/mask_head_weights.py --out shipped.safetensors
    anyregion train compact_masks --compact_masks.start shipped.safetensors ...

So that a training may begin at it. The weights are the graph's float16 ones; the tool checks that
both answer alike.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from anyregion.compact.assets import MASK_HEAD, read_asset, start_session
from anyregion.compact.image_encoder import CHANNELS
from anyregion.compact.training.checkpoint import write_head
from anyregion.compact.training.export import MaskGraph, TorchSession
from anyregion.compact.training.modules import MaskHeadConfig, MaskHeadModule


def constants(model: onnx.ModelProto) -> list[tuple[str, str, np.ndarray]]:
    """The graph's weights in the order of use: name, kind of the node that uses it, values."""
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:  # float16 cast back to float32
        if node.op_type == "Cast" and node.input[0] in values:
            values[node.output[0]] = values.pop(node.input[0]).astype(np.float32)
    return [
        (name, node.op_type, values[name])
        for node in model.graph.node
        for name in node.input
        if name in values and values[name].dtype == np.float32
    ]


def rebuilt(model: onnx.ModelProto, config: MaskHeadConfig) -> MaskHeadModule:
    """The module of which the graph was made."""
    head = MaskHeadModule(config).eval()
    own = head.state_dict()
    used = constants(model)
    named = {name.removeprefix("head."): array for name, _, array in used}
    left = [(name, kind, array) for name, kind, array in used if not name.startswith("head.")]

    def take(kind: str, shape: tuple[int, ...]) -> np.ndarray:
        """The first weight that is left of that kind and shape."""
        for i, (_, used_by, array) in enumerate(left):
            if used_by == kind and array.shape == shape:
                return left.pop(i)[2]
        raise SystemExit(f"the graph has no {kind} of {shape}")

    for name, values in own.items():
        shape = tuple(values.shape)
        if name in named:
            array = named[name]
        elif name.endswith(("shift", "factor")):
            array = np.full(shape, float(name.endswith("factor")), np.float32)
        elif len(shape) == 2:
            array = take("MatMul", shape[::-1]).T
        elif name.endswith((".1.weight", ".1.bias")) and "quality" not in name:
            array = take("Mul" if name.endswith("weight") else "Add", (*shape, 1, 1)).reshape(shape)
        else:
            array = take("Add", shape)
        own[name].copy_(torch.from_numpy(np.array(array, dtype=np.float32)))
    return head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--edges", type=int, default=MaskHeadConfig().edges)
    parser.add_argument("--fine-depth", type=int, default=MaskHeadConfig().fine_depth)
    args = parser.parse_args()
    config = MaskHeadConfig(edges=args.edges, fine_depth=args.fine_depth)
    graph = read_asset(MASK_HEAD)
    head = rebuilt(onnx.load_from_string(graph), config)
    random = np.random.default_rng(0)
    feed = {
        name: random.random((8 * f, 6 * f, width), dtype=np.float32)
        for (name, width), f in zip(CHANNELS.items(), (4, 2, 1, 1), strict=True)
    }
    feed |= {"frame": random.random((1, 3, 256, 192), dtype=np.float32)}
    feed |= {"boxes": np.array([[8, 8, 72, 40], [60, 30, 190, 250]], np.float32)}
    session = start_session(graph, threads=1, device="cpu")
    names = ["inside", "scores"]
    pairs = zip(
        session.run(names, feed), TorchSession(MaskGraph(head)).run(names, feed), strict=True
    )
    difference = max(float(np.abs(a - b).max()) for a, b in pairs)
    if difference > 1e-3:
        sys.exit(f"the module answers otherwise than the graph (by {difference:.2g})")
    write_head(head, args.out)
    print(f"{args.out}: as the graph, to {difference:.1g}")


if __name__ == "__main__":
    main()
