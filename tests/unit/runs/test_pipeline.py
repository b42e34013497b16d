"""The pipeline: everything is done once, and what cannot be used does not take the rest along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Regions
from anyregion.runs import pipeline
from anyregion.runs.pipeline import Batch, RecognizeOptions, RegionNamer, Sample, run_pipeline
from tests.helpers.colours import COLOURS, ColourEncoder

LEFT_RIGHT = Regions.from_boxes([[0, 0, 20, 30], [20, 0, 40, 30]])
PAPER = np.full((30, 40, 3), 255, np.uint8)
REFUSED = np.full((30, 40, 3), (1, 2, 3), np.uint8)  # by `ColourEncoder`


class Counting(ColourEncoder):
    """Remembers how many regions were asked about in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[list[int]] = []

    def embed_regions(
        self, encoded: Sequence[Any], regions: Sequence[Regions], **options: Any
    ) -> list[RegionEmbeddings]:
        self.counts.append([len(r) for r in regions])
        return super().embed_regions(encoded, regions, **options)


class Halves:
    """Proposes the halves of what an encoder made of an image."""

    name = fingerprint = "halves"

    def __init__(self, encoder: object) -> None:
        self.encoder = encoder
        self.from_pixels = 0

    def propose(self, image: Pixels) -> Regions:
        self.from_pixels += 1
        return self.propose_encoded(image)

    def propose_encoded(self, encoded: Pixels) -> Regions:
        return Regions.from_boxes([[0, 0, 20, 30], [20, 0, 40, 30]], scores=[0.5, 0.25])


def walk(encoder: ColourEncoder, samples: Sequence[Sample], **options: Any) -> list[Batch[Any]]:
    recognizer = Recognizer(encoder, cache=None)
    encoded = recognizer.encode_vocabulary(COLOURS)
    namer = RegionNamer(recognizer, encoded, RecognizeOptions())
    return list(run_pipeline(samples, encoder, namer, **options))


def labels(batch: Batch[Any]) -> dict[str, list[str]]:
    return {item.sample.name: predictions.labels for item, predictions in batch.results}


def test_files_and_pixels_are_named(photos: Path) -> None:
    samples = [Sample("file", photos / "y.png", LEFT_RIGHT), Sample("pixels", PAPER, LEFT_RIGHT)]
    (batch,) = walk(Counting(), samples)
    assert labels(batch) == {"file": ["yellow", "black"], "pixels": ["white", "white"]}
    assert (batch.skipped, batch.set_aside) == ([], [])


@pytest.mark.parametrize("shared", [True, False])
def test_an_image_is_encoded_once(shared: bool) -> None:
    """Also where the model that names the regions proposes them."""
    encoder = Counting()
    proposer = Halves(encoder if shared else None)
    samples = [Sample(str(i), PAPER, None) for i in range(3)]
    (batch,) = walk(encoder, samples, proposer=proposer)
    assert len(batch.results) == 3
    assert (encoder.images_encoded, proposer.from_pixels) == (3, 0 if shared else 3)
    scores = batch.results[0][1].scores[:, 0]
    assert scores[0] == pytest.approx(2 * scores[1]), "objectness counts"


def test_regions_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[tuple[int, int]] = []
    fit = Regions.fit
    monkeypatch.setattr(Regions, "fit", lambda self, h, w: checks.append((h, w)) or fit(self, h, w))
    walk(Counting(), [Sample("a", PAPER, LEFT_RIGHT), Sample("b", PAPER, LEFT_RIGHT)])
    assert checks == [(30, 40)] * 2


def test_images_without_regions_are_not_encoded() -> None:
    outside = Regions.from_boxes([[50, 50, 60, 60]])
    samples = [Sample("none", PAPER, LEFT_RIGHT[[]]), Sample("outside", PAPER, outside)]
    encoder = Counting()
    (batch,) = walk(encoder, samples)
    assert [item.sample.name for item in batch.read] == ["none", "outside"]
    assert (batch.results, encoder.images_encoded) == ([], 0)
    assert [a.item for a in batch.set_aside] == ["outside, region 0"]
    (batch,) = walk(encoder, samples, ask_empty=True)
    assert labels(batch) == {"none": [], "outside": []}


def test_one_that_is_refused_does_not_take_its_batch_along(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    samples = [
        Sample("first", PAPER, LEFT_RIGHT),
        Sample("refused", REFUSED, LEFT_RIGHT),
        Sample("broken", tmp_path / "broken.png", LEFT_RIGHT),
        Sample("small", PAPER, LEFT_RIGHT, size=(15, 20)),
        Sample("unknown", PAPER, None),
        Sample("last", PAPER, LEFT_RIGHT),
    ]
    encoder = Counting()
    (batch,) = walk(encoder, samples, batch_size=9)
    assert list(labels(batch)) == ["first", "last"]
    reasons = {sample.name: reason for sample, reason in batch.skipped}
    assert list(reasons) == ["broken", "small", "unknown", "refused"]
    assert reasons["small"] == "the image is 40 x 30 upright, but the region file says 20 x 15"
    assert reasons["unknown"] == "no regions for this image, and nothing to find them"
    assert reasons["refused"] == "this image is refused"
    assert [item.sample.name for item in batch.read] == ["first", "last"]


def test_batches_and_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, int]] = []
    encoder = Counting()
    samples = [Sample(str(i), PAPER, LEFT_RIGHT) for i in range(5)]
    batches = walk(encoder, samples, batch_size=2, progress=lambda *d: done.append(d))
    assert [list(labels(batch)) for batch in batches] == [["0", "1"], ["2", "3"], ["4"]]
    assert done == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert encoder.counts == [[2, 2], [2, 2], [2]]


def test_a_bug_is_not_a_reason() -> None:
    """What is no `InputError` stops the run."""

    class Broken(Counting):
        def embed_regions(self, *_: Any, **__: Any) -> list[RegionEmbeddings]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        walk(Broken(), [Sample("a", PAPER, LEFT_RIGHT)])


@pytest.mark.parametrize("options", [{"top_k": 0}, {"batch_size": 0}, {"min_score": -0.1}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        pipeline.RecognizeOptions(**options)
