"""RegionSpot exported to ONNX answers as torch does, where there is no torch, and for others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("open_clip")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from anyregion import CheckpointError, InputError, Recognizer, Regions  # noqa: E402
from anyregion.cli.main import main  # noqa: E402
from anyregion.exported.encoder import ExportedRegionSpot  # noqa: E402
from anyregion.exported.folder import CONFIG, HEAD  # noqa: E402
from anyregion.factory import load_recognizer  # noqa: E402
from anyregion.localizers.loading import load_localizer  # noqa: E402
from anyregion.masks import decode_mask  # noqa: E402
from anyregion.regionspot.adapter import Adapter, AdapterConfig  # noqa: E402
from anyregion.regionspot.encoder import RegionSpotEncoder  # noqa: E402
from anyregion.regionspot.export import export_onnx  # noqa: E402
from anyregion.vlms.loading import load_vlm  # noqa: E402
from anyregion.vocabulary import Vocabulary  # noqa: E402
from tests.helpers.small_localizers import build, sam_config, spread  # noqa: E402
from tests.helpers.small_vlms import write_folder  # noqa: E402

EXAMPLES = Path(__file__).parents[3] / "examples"
PHOTO = np.random.default_rng(0).integers(255, size=(48, 90, 3), dtype=np.uint8)
BOXES = Regions.from_boxes([[2, 3, 40, 30], [10, 5, 80, 44], [50.5, 1, 60, 47]])
# a box; a point; two points and a box: three lengths of prompts, out of order
MIXED = Regions.from_prompts(
    boxes=[[2, 3, 40, 30], [np.nan] * 4, [10, 5, 80, 44], [50, 1, 60, 47]],
    points=[None, [[20.0, 20.0]], [[30.0, 9.0], [70.0, 40.0]], None],
    point_labels=[None, [1], [1, 0], None],
)
NAMES = ["cup", "traffic light", "a key"]
# numbers of the package's own, of scale 1 to 10
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@dataclass(frozen=True)
class Models:
    """One RegionSpot in torch, exported, and exported with 8-bit weights."""

    root: Path
    torch: Recognizer
    onnx: Recognizer
    int8: Recognizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    spread(transformers.SamModel(sam_config())).save_pretrained(root / "sam")
    write_folder(root / "clip", "clip")
    config = AdapterConfig(token_width=32, feature_width=48, embed_width=40, layers=1)
    adapter = spread(Adapter(config))
    encoder = RegionSpotEncoder(load_localizer(root / "sam"), load_vlm(root / "clip"), adapter)
    names = Vocabulary.from_names(NAMES, templates=["a {}."])
    encoder.save_pretrained(root / "model", vocabulary=names)
    code = main(["export-onnx", str(root / "model"), str(root / "onnx")])
    code += main(["export-onnx", str(root / "onnx"), str(root / "int8"), "--int8"])
    assert code == 0
    folders = (root / name for name in ("model", "onnx", "int8"))
    return Models(root, *(load_recognizer(folder, cache=None) for folder in folders))


@pytest.mark.parametrize("multimask", [False, True])
def test_equals_torch(models: Models, multimask: bool) -> None:
    answers = [
        r.recognize([PHOTO, PHOTO[:, :30]], [MIXED, Regions.from_boxes([])], top_k=3,
                    masks=True, multimask=multimask)
        for r in (models.torch, models.onnx)
    ]  # fmt: skip
    for original, exported in zip(*answers, strict=True):
        assert exported.labels == original.labels
        np.testing.assert_array_equal(exported.rows, original.rows)
        np.testing.assert_array_equal(exported.boxes, original.boxes)
        np.testing.assert_allclose(exported.embeddings, original.embeddings, **CLOSE)
        np.testing.assert_allclose(exported.scores, original.scores, **CLOSE)
        np.testing.assert_allclose(exported.mask_scores, original.mask_scores, **CLOSE)
        np.testing.assert_allclose(exported.mask_logits, original.mask_logits, **CLOSE)
        for mask, expected in zip(exported.masks or (), original.masks or (), strict=True):
            # a logit of 0 may round to either side
            assert (decode_mask(mask) != decode_mask(expected)).mean() < 1e-3
    assert len(answers[0][0].rows) == 4 * (3 if multimask else 1)


def test_other_words_one_word_and_features(models: Models) -> None:
    new = ["a zebra crossing", "été", "x " * 100]
    texts = [r.encoder.text.encode_text(new) for r in (models.torch, models.onnx)]
    np.testing.assert_allclose(*texts, **CLOSE)
    assert models.onnx.encoder.text.fingerprint == models.torch.encoder.text.fingerprint
    one = models.onnx.recognize([PHOTO], [BOXES], ["zebra"], score="sigmoid")[0]
    same = models.torch.recognize([PHOTO], [BOXES], ["zebra"], score="sigmoid")[0]
    np.testing.assert_allclose(one.scores, same.scores, **CLOSE)
    seen = []
    for encoder in (models.torch.encoder, models.onnx.encoder):
        encoded = encoder.encode_images([PHOTO])
        seen.append(encoder.embed_regions(encoded, [BOXES], features=True)[0].features or {})
    assert seen[0].keys() == seen[1].keys() == {"token", "embedding", "pooled"}
    for name in seen[0]:
        np.testing.assert_allclose(seen[0][name], seen[1][name], **CLOSE)


def test_runs_where_torch_cannot_be_imported(models: Models, tmp_path: Path) -> None:
    expected = models.torch.recognize([PHOTO], [BOXES], ["zebra", "a bus"], top_k=2)[0]
    np.save(tmp_path / "photo.npy", PHOTO)
    script = """
import json, sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np
from anyregion import Regions, load_recognizer
boxes = Regions.from_boxes(json.loads(sys.argv[3]))
recognizer = load_recognizer(sys.argv[1], cache=None)
result = recognizer.recognize([np.load(sys.argv[2])], [boxes], ["zebra", "a bus"], top_k=2)[0]
print(json.dumps([result.labels, result.scores.tolist()]))
"""
    words = [models.root / "onnx", tmp_path / "photo.npy", json.dumps(BOXES.boxes.tolist())]
    labels, scores = json.loads(_run([sys.executable, "-c", script, *words]))
    assert labels == json.loads(json.dumps(expected.labels))
    np.testing.assert_allclose(scores, expected.scores, **CLOSE)


def test_int8_is_smaller_and_close(models: Models) -> None:
    sizes = [
        sum(file.stat().st_size for file in (models.root / name).glob("*.onnx"))
        for name in ("onnx", "int8")
    ]
    assert sizes[1] < 0.6 * sizes[0]
    rows = [r.embed([PHOTO], [BOXES])[0] for r in (models.onnx, models.int8)]
    assert not np.array_equal(*rows)
    cosines = (rows[0] * rows[1]).sum(1) / np.prod([np.linalg.norm(r, axis=1) for r in rows], 0)
    assert (cosines > 0.98).all(), cosines
    assert models.int8.encoder.fingerprint != models.onnx.encoder.fingerprint
    assert models.int8.encoder.text.fingerprint != models.onnx.encoder.text.fingerprint


def test_what_cannot_be_used_is_refused(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = Regions.from_prompts(masks=[np.ones(PHOTO.shape[:2], bool)])
    with pytest.raises(InputError, match="boxes and points"):
        models.onnx.recognize([PHOTO], [mask])
    with pytest.raises(InputError, match="exported to ONNX"):
        load_recognizer(models.root / "onnx", vlm="other")
    damaged = shutil.copytree(models.root / "onnx", tmp_path / "damaged")
    (damaged / HEAD).write_bytes(b"?")
    with pytest.raises(CheckpointError, match="damaged or replaced"):
        load_recognizer(damaged)
    original = models.torch.encoder
    assert isinstance(original, RegionSpotEncoder)
    hq = RegionSpotEncoder(build("sam_hq"), original.vlm, original.adapter)
    with pytest.raises(InputError, match="only SAM"):
        export_onnx(hq, tmp_path / "hq")
    assert not (tmp_path / "hq").exists()
    assert main(["export-onnx", "compact", str(tmp_path / "compact")]) == 1
    assert "is ONNX already" in capsys.readouterr().err
    assert main(["export-onnx", str(tmp_path / "gone"), str(tmp_path / "compact")]) == 1
    assert "gone: there is no such file or folder" in capsys.readouterr().err


def test_without_its_text_side_encoded_vocabularies_serve(models: Models, tmp_path: Path) -> None:
    folder = shutil.copytree(models.root / "onnx", tmp_path / "silent")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "has_text": False}))
    silent = load_recognizer(folder, cache=None)
    assert isinstance(silent.encoder, ExportedRegionSpot)
    with pytest.raises(InputError, match="without its text side"):
        silent.recognize([PHOTO], [BOXES], ["cup"])
    encoded = models.torch.encode_vocabulary(["cup", "pen"])
    answers = [r.recognize([PHOTO], [BOXES], encoded)[0] for r in (silent, models.torch)]
    np.testing.assert_allclose(answers[0].scores, answers[1].scores, **CLOSE)


def test_the_consumer_in_python(models: Models, tmp_path: Path) -> None:
    lines = _consume(models, tmp_path, [sys.executable, EXAMPLES / "onnx_regions.py"], "png")
    _check_consumer(models, lines, atol=1e-3)


def test_the_consumer_in_javascript(models: Models, tmp_path: Path) -> None:
    where = os.environ.get("ANYREGION_NODE_MODULES", "")
    if shutil.which("node") is None or not Path(where, "onnxruntime-node").is_dir():
        pytest.skip("needs node, and ANYREGION_NODE_MODULES with onnxruntime-node in it")
    lines = _consume(
        models, tmp_path, ["node", EXAMPLES / "onnx_regions.mjs"], "ppm", Path(where).parent
    )
    # its resize is its own, and may round a byte to the other side
    _check_consumer(models, lines, atol=1e-2)


def _consume(
    models: Models, tmp_path: Path, program: list[object], suffix: str, where: Path | None = None
) -> list[dict[str, object]]:
    photo = tmp_path / f"photo.{suffix}"
    Image.fromarray(PHOTO).save(photo)
    vocabulary = models.onnx.encode_vocabulary()
    rows = dict(zip(vocabulary.vocabulary.names, vocabulary.matrix.tolist(), strict=True))
    (tmp_path / "names.json").write_text(json.dumps(rows))
    boxes = [",".join(map(str, box)) for box in BOXES.boxes.tolist()]
    words = [*program, models.root / "onnx", photo, tmp_path / "names.json", *boxes]
    return [json.loads(line) for line in _run(words, where).splitlines()]


def _check_consumer(models: Models, lines: list[dict[str, object]], *, atol: float) -> None:
    encoder, matrix = models.torch.encoder, models.torch.encode_vocabulary().matrix
    rows = models.torch.embed([PHOTO], [BOXES])[0]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    logits = encoder.logit_scale * rows @ matrix.T
    np.testing.assert_allclose([line["logits"] for line in lines], logits, atol=atol)
    assert [line["name"] for line in lines] == [NAMES[i] for i in logits.argmax(1)]


def _run(words: list[object], where: Path | None = None) -> str:
    result = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, timeout=120, cwd=where, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
