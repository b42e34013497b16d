"""The built-in model as it ships: names, masks, points, proposals, on a real photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from anyregion import Recognizer, Regions, Vocabulary, load_recognizer, read_image
from anyregion.baselines.dense import DenseEncoder
from anyregion.compact.encoder import CompactEncoder
from anyregion.compact.proposer import CompactProposer
from anyregion.errors import CheckpointError, InputError
from anyregion.masks import decode_mask

EXAMPLES = Path(__file__).parents[3] / "examples"
BOXES = [[172, 18, 425, 308], [0, 200, 120, 400], [325, 66, 426, 327]]


@pytest.fixture(scope="module")
def compact() -> CompactEncoder:
    return CompactEncoder(threads=1)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read_image(EXAMPLES / "coffee.jpg")


def embedded(
    compact: CompactEncoder, photos: Sequence[np.ndarray], regions: Sequence[Regions], **asked: bool
) -> list[np.ndarray]:
    found = compact.embed_regions(compact.encode_images(photos), regions, **asked)
    return [f.embeddings for f in found]


def test_what_load_recognizer_gives() -> None:
    assert isinstance(load_recognizer().encoder, CompactEncoder)
    assert isinstance(load_recognizer(method="regionspot").encoder, CompactEncoder)
    assert isinstance(load_recognizer(method="dense").encoder, DenseEncoder)
    with pytest.raises(InputError, match="own eyes"):
        load_recognizer(localizer="facebook/sam-vit-base")
    with pytest.raises(InputError, match="own words"):
        load_recognizer(vlm="openai/clip-vit-base-patch16")


def test_names_a_real_photo(compact: CompactEncoder, photo: np.ndarray) -> None:
    recognizer = Recognizer(compact, cache=None)
    recognizer.set_image(photo)
    words = ["cup", "dog", "car", "person", "zebra", "traffic light"]
    found = recognizer.predict(Regions.from_boxes(BOXES[:1]), words)
    assert found.labels == ["cup"]
    assert found.scores[0, 0] > 0.5
    absent = recognizer.predict(Regions.from_boxes(BOXES[:1]), ["zebra", "traffic light"])
    assert absent.scores[0, 0] < 0.3, "none of these: sigmoid scores by default"
    alone = recognizer.predict(Regions.from_boxes(BOXES[:1]), ["cup"])
    assert alone.scores[0, 0] == pytest.approx(found.scores[0, 0], abs=1e-6)


def test_an_answer_depends_on_its_region_alone(compact: CompactEncoder, photo: np.ndarray) -> None:
    other = photo[::-1].copy()[:300]
    (together,) = embedded(compact, [photo], [Regions.from_boxes(BOXES)])
    batched = embedded(
        compact,
        [other, photo],
        [Regions.from_boxes(BOXES[:1]), Regions.from_boxes([BOXES[1], BOXES[0], BOXES[2]])],
    )
    assert np.allclose(batched[1][[1, 0, 2]], together, atol=1e-5)
    for i, box in enumerate(BOXES):
        (alone,) = embedded(compact, [photo], [Regions.from_boxes([box])])
        assert np.allclose(alone[0], together[i], atol=1e-5)
    assert np.linalg.norm(together[0] - together[1]) > 0.1


def test_masks_of_boxes_points_and_masks(compact: CompactEncoder, photo: np.ndarray) -> None:
    given = np.zeros(photo.shape[:2], dtype=bool)
    given[100:200, 200:300] = True
    regions = Regions.from_prompts(
        boxes=[BOXES[0], [np.nan] * 4, [np.nan] * 4],
        points=[None, [[300, 150]], None],
        masks=[None, None, given],
    )
    (found,) = compact.embed_regions(compact.encode_images([photo]), [regions], masks=True)
    assert found.masks is not None
    assert found.mask_scores is not None
    box, point, mask = (decode_mask(m) for m in found.masks)
    assert (mask == given).all()
    x0, y0, x1, y1 = BOXES[0]
    inside = box[y0:y1, x0:x1]
    assert box.sum() == inside.sum(), "nothing outside the box"
    assert 0.3 < inside.mean() < 1
    left, top, right, bottom = found.boxes[1]
    assert left <= 300 <= right
    assert top <= 150 <= bottom
    assert point.any()
    assert ((found.mask_scores >= 0) & (found.mask_scores <= 1)).all()
    assert found.mask_scores[2] == 1, "it was given"


def test_masks_cost_nothing_unless_asked(photo: np.ndarray) -> None:
    fresh = CompactEncoder(threads=1)
    embedded(fresh, [photo], [Regions.from_boxes(BOXES)])
    assert "mask_head" not in vars(fresh)
    assert "finder" not in vars(fresh)


def test_no_region_and_many(compact: CompactEncoder, photo: np.ndarray) -> None:
    (none,) = embedded(compact, [photo], [Regions.from_boxes([])], masks=True)
    assert none.shape == (0, compact.text.encode_text(["a cup"]).shape[1])
    draw = np.random.default_rng(0)
    low = draw.uniform(0, 300, (400, 2))
    many = Regions.from_boxes(np.concatenate([low, low + draw.uniform(1, 90, (400, 2))], axis=1))
    (found,) = embedded(compact, [photo], [many])
    (part,) = embedded(compact, [photo], [many[[7, 300]]])
    assert np.allclose(found[[7, 300]], part, atol=1e-5)


def test_narrow_images(compact: CompactEncoder) -> None:
    for shape in ((3, 500), (500, 3), (1, 1)):
        pixels = np.full((*shape, 3), 90, dtype=np.uint8)
        whole = Regions.from_boxes([[0, 0, shape[1], shape[0]]])
        (found,) = compact.embed_regions(compact.encode_images([pixels]), [whole], masks=True)
        assert np.isfinite(found.embeddings).all()
        assert found.masks is not None
        assert found.masks[0]["size"] == list(shape)


def test_proposals(photo: np.ndarray) -> None:
    proposer = CompactProposer(threads=1, limit=20, min_score=0.0)
    found = proposer.propose(photo)
    assert 1 <= len(found) <= 20
    assert found.scores is not None
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 2:] <= [photo.shape[1], photo.shape[0]]).all()
    again = proposer.propose(photo)
    assert np.array_equal(found.boxes, again.boxes)
    fewer = CompactProposer(threads=1, limit=3, min_score=0.0)
    assert np.array_equal(fewer.propose(photo).boxes, found.boxes[:3])
    assert fewer.fingerprint != proposer.fingerprint


def test_another_module(tmp_path: Path, compact: CompactEncoder) -> None:
    from anyregion.compact.assets import read_asset

    for name in ("namer.onnx", "namer.safetensors"):
        (tmp_path / name).write_bytes(read_asset(name))
    assert isinstance(load_recognizer(tmp_path).encoder, CompactEncoder)
    assert CompactEncoder(tmp_path).fingerprint == compact.fingerprint, "the same weights"
    (tmp_path / "namer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load_recognizer(tmp_path)


def test_words_of_trained_and_new_names(compact: CompactEncoder) -> None:
    words = Vocabulary.from_names(["dog", "couch", "sofa", "wheelbarrow"])
    matrix = Recognizer(compact, cache=None).encode_vocabulary(words).matrix
    assert np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
    gain = matrix[:, -2]
    assert gain[0] == gain[1] == 0
    assert gain[1] <= gain[2] < gain[3]
