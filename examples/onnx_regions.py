"""Names boxes of a photograph by the graphs of `anyregion export-onnx`; without anyregion or torch.

python onnx_regions.py FOLDER PHOTO NAMES.json X0,Y0,X1,Y1 [X0,Y0,X1,Y1 ...]

NAMES.json is {name: embedding of length 1}; docs/reference/onnx.md says how to write it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image

folder, photo, names, *boxes = sys.argv[1:]
config = json.loads(Path(folder, "onnx.json").read_text(encoding="utf-8"))
names = json.loads(Path(names).read_text(encoding="utf-8"))
image = Image.open(photo).convert("RGB")
boxes = np.array([box.split(",") for box in boxes], np.float64)  # (N, 4) in pixels


def run(graph, **inputs):
    return ort.InferenceSession(f"{folder}/{graph}.onnx").run(None, inputs)


def network_input(pixels, mean, std):
    pixels = (pixels.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (1, 3, height, width)


# the localizer: the longer side becomes `side`, zeros right and below
side = config["side"]
inside = [max(1, int(length * side / max(image.size) + 0.5)) for length in image.size]
small = np.asarray(image.resize(inside, Image.Resampling.BILINEAR))
small = network_input(small, config["localizer_mean"], config["localizer_std"])
padded = np.zeros((1, 3, side, side), np.float32)
padded[:, :, : inside[1], : inside[0]] = small
(embedding,) = run("localizer_image", pixels=padded)
corners = (boxes.reshape(-1, 2, 2) * np.divide(inside, image.size)).astype(np.float32)
labels = np.tile(np.int64([2, 3]), (len(boxes), 1))  # a box is its corners
tokens, _ = run("localizer_tokens", embedding=embedding, points=corners, labels=labels)

# the vision-language model: the whole image squashed to a square, as floats
size = (config["image_size"], config["image_size"])
planes = [Image.fromarray(np.float32(plane) / 255) for plane in image.split()]
planes = np.stack([plane.resize(size, Image.Resampling.BILINEAR) for plane in planes], axis=-1)
pixels = network_input(planes, config["vlm_mean"], config["vlm_std"])
(features,) = run("vlm_image", pixels=pixels)

# the head: the first token of each region, and the names
matrix = np.array(list(names.values()), np.float32)  # (W, E)
tokens = np.ascontiguousarray(tokens[:, 0])
_, logits = run("head", tokens=tokens, features=features, names=matrix)
for box, row in zip(boxes.tolist(), logits, strict=True):
    print(json.dumps({"box": box, "name": list(names)[row.argmax()], "logits": row.tolist()}))
