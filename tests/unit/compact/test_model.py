"""The built-in model as it ships: names, masks, points, proposals, on a real photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from anyregion import Recognizer, Regions, Vocabulary, load_recognizer, read_image
from anyregion.baselines.dense import DenseEncoder
from anyregion.compact.model import CompactEncoder, CompactModel
from anyregion.compact.proposal_head import ProposalOptions
from anyregion.compact.proposers import CompactProposer
from anyregion.errors import CheckpointError, InputError
from anyregion.factory import load_proposer
from anyregion.masks import decode_mask
from anyregion.region_encoder import REGIONS_AT_ONCE
from anyregion.tiles import untiled
from anyregion.vocabulary import encode_vocabulary

EXAMPLES = Path(__file__).parents[3] / "examples"
CUP = Vocabulary.from_names(["cup"])
BOXES = [[172, 18, 425, 308], [0, 200, 120, 400], [325, 66, 426, 327]]


@pytest.fixture(scope="module")
def compact() -> CompactEncoder:
    return CompactEncoder(CompactModel(threads=1))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read_image(EXAMPLES / "coffee.jpg")


def embedded(
    compact: CompactEncoder,
    photos: Sequence[np.ndarray],
    regions: Sequence[Regions],
    **options: bool,
) -> list[np.ndarray]:
    results = compact.embed_regions(compact.encode_images(photos), regions, **options)
    return [result.embeddings for result in results]


@pytest.mark.parametrize("method", ["compact", "dense", "crop"])
def test_very_many_regions_answer_as_a_block_at_a_time(
    method: str, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in blocks, regions have the answers of each block alone, and of all at once."""
    count = {"compact": 2 * REGIONS_AT_ONCE + 31, "dense": 2 * REGIONS_AT_ONCE + 31, "crop": 30}
    at_once = 8 if method == "crop" else REGIONS_AT_ONCE
    rng = np.random.default_rng(11)
    height, width = photo.shape[:2]
    low = rng.uniform(0, [width - 60, height - 60], (count[method], 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 60, low.shape)], axis=1)
    for module in ("compact.model", "compact.region_head", "baselines.dense", "baselines.crop"):
        monkeypatch.setattr(f"anyregion.{module}.REGIONS_AT_ONCE", at_once)
    recognizer = load_recognizer(method=None if method == "compact" else method)
    words = ["cup", "spoon", "table", "zebra"]
    recognizer.set_image(photo)
    whole = recognizer.predict(Regions.from_boxes(boxes), words, top_k=4)
    blocks = [
        recognizer.predict(Regions.from_boxes(boxes[start : start + at_once]), words, top_k=4)
        for start in range(0, len(boxes), at_once)
    ]
    for module in ("compact.model", "compact.region_head", "baselines.dense", "baselines.crop"):
        monkeypatch.setattr(f"anyregion.{module}.REGIONS_AT_ONCE", 10**6)
    together = recognizer.predict(Regions.from_boxes(boxes), words, top_k=4)
    former = np.concatenate([part.embeddings for part in blocks])
    assert len(whole) == len(boxes)
    np.testing.assert_allclose(whole.embeddings, former, rtol=0, atol=1e-5)
    np.testing.assert_allclose(whole.embeddings, together.embeddings, rtol=0, atol=1e-5)
    scores = np.concatenate([part.scores for part in blocks])
    np.testing.assert_allclose(whole.scores, scores, rtol=0, atol=1e-5)


def test_what_load_recognizer_gives() -> None:
    assert isinstance(untiled(load_recognizer().encoder), CompactEncoder)
    assert isinstance(load_recognizer(method="regionspot", tiles=0).encoder, CompactEncoder)
    assert isinstance(load_recognizer(method="dense").encoder, DenseEncoder)
    with pytest.raises(InputError, match="takes no localizer"):
        load_recognizer(localizer="facebook/sam-vit-base")
    with pytest.raises(InputError, match="text encoder of its own"):
        load_recognizer(vlm="openai/clip-vit-base-patch16")


def test_names_a_real_photo(compact: CompactEncoder, photo: np.ndarray) -> None:
    recognizer = Recognizer(compact, cache=None)
    recognizer.set_image(photo)
    words = ["cup", "dog", "car", "person", "zebra", "traffic light"]
    result = recognizer.predict(Regions.from_boxes(BOXES[:1]), words)
    assert result.labels == ["cup"]
    assert result.scores[0, 0] > 0.5
    absent = recognizer.predict(Regions.from_boxes(BOXES[:1]), ["zebra", "traffic light"])
    assert absent.scores[0, 0] < 0.5 < result.scores[0, 0], "none of these"
    alone = recognizer.predict(Regions.from_boxes(BOXES[:1]), ["cup"])
    assert alone.scores[0, 0] > result.scores[0, 0] > 0.5, "six names are more to choose from"
    by_name = [
        recognizer.predict(Regions.from_boxes(BOXES[:1]), names, score="sigmoid").scores[0, 0]
        for names in (["cup"], words)
    ]
    assert by_name[0] == pytest.approx(by_name[1], abs=1e-6)


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
    prompt = np.zeros(photo.shape[:2], dtype=bool)
    prompt[100:200, 200:300] = True
    regions = Regions.from_prompts(
        boxes=[BOXES[0], [np.nan] * 4, [np.nan] * 4],
        points=[None, [[300, 150]], None],
        masks=[None, None, prompt],
    )
    (result,) = compact.embed_regions(compact.encode_images([photo]), [regions], masks=True)
    assert result.masks is not None
    assert result.mask_scores is not None
    box, point, mask = (decode_mask(m) for m in result.masks)
    assert (mask == prompt).all()
    x0, y0, x1, y1 = BOXES[0]
    inside = box[y0:y1, x0:x1]
    assert box.sum() == inside.sum(), "nothing outside the box"
    assert 0.3 < inside.mean() < 1
    left, top, right, bottom = result.boxes[1]
    assert left <= 300 <= right
    assert top <= 150 <= bottom
    assert point.any()
    assert ((result.mask_scores >= 0) & (result.mask_scores <= 1)).all()
    assert result.mask_scores[2] == 1, "it is the prompt"


def test_masks_cost_nothing_unless_requested(photo: np.ndarray) -> None:
    fresh = CompactEncoder(CompactModel(threads=1))
    embedded(fresh, [photo], [Regions.from_boxes(BOXES)])
    assert "mask_head" not in vars(fresh.model)
    assert "proposal_head" not in vars(fresh.model)


def test_no_region_and_many(compact: CompactEncoder, photo: np.ndarray) -> None:
    (none,) = embedded(compact, [photo], [Regions.from_boxes([])], masks=True)
    assert none.shape == (0, encode_vocabulary(CUP, compact.text, cache=None).matrix.shape[1])
    draw = np.random.default_rng(0)
    low = draw.uniform(0, 300, (400, 2))
    many = Regions.from_boxes(np.concatenate([low, low + draw.uniform(1, 90, (400, 2))], axis=1))
    (result,) = embedded(compact, [photo], [many])
    (part,) = embedded(compact, [photo], [many[[7, 300]]])
    assert np.allclose(result[[7, 300]], part, atol=1e-5)


def test_narrow_images(compact: CompactEncoder) -> None:
    for shape in ((3, 500), (500, 3), (1, 1)):
        pixels = np.full((*shape, 3), 90, dtype=np.uint8)
        whole = Regions.from_boxes([[0, 0, shape[1], shape[0]]])
        (result,) = compact.embed_regions(compact.encode_images([pixels]), [whole], masks=True)
        assert np.isfinite(result.embeddings).all()
        assert result.masks is not None
        assert result.masks[0]["size"] == list(shape)


def test_proposals(compact: CompactEncoder, photo: np.ndarray) -> None:
    proposer = CompactProposer(compact.model, options=ProposalOptions(limit=20, min_score=0.0))
    result = proposer.propose(photo)
    assert 1 <= len(result) <= 20
    assert result.scores is not None
    assert (np.diff(result.scores) <= 0).all()
    assert (result.boxes >= 0).all()
    assert (result.boxes[:, 2:] <= [photo.shape[1], photo.shape[0]]).all()
    again = proposer.propose(photo)
    assert np.array_equal(result.boxes, again.boxes)
    fewer = CompactProposer(compact.model, options=ProposalOptions(limit=3, min_score=0.0))
    assert np.array_equal(fewer.propose(photo).boxes, result.boxes[:3])
    assert fewer.fingerprint != proposer.fingerprint


def test_an_image_is_encoded_once_when_its_regions_are_proposed_and_named(
    compact: CompactEncoder, photo: np.ndarray
) -> None:
    proposer = load_proposer("compact", recognizer=Recognizer(compact, cache=None))
    assert isinstance(proposer, CompactProposer)
    assert proposer.encoder is compact
    (encoded,) = compact.encode_images([photo])
    handed_over, alone = proposer.propose_encoded(encoded), proposer.propose(photo)
    assert np.array_equal(handed_over.boxes, alone.boxes)
    assert np.array_equal(handed_over.scores, alone.scores)
    dense = load_proposer("compact", recognizer=load_recognizer(method="dense", cache=None))
    assert dense.fingerprint == proposer.fingerprint
    assert dense.encoder is None, "another model's encoder is of no use to it"


def test_another_module(tmp_path: Path, compact: CompactEncoder) -> None:
    from anyregion.compact.assets import read_asset

    for name in ("namer.onnx", "namer.safetensors"):
        (tmp_path / name).write_bytes(read_asset(name))
    assert isinstance(untiled(load_recognizer(tmp_path).encoder), CompactEncoder)
    assert CompactEncoder(CompactModel(tmp_path)).fingerprint == compact.fingerprint, (
        "the same weights"
    )
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
