"""Draws the faults that the model cards show, with the built-in model as it is.

    python tools/card_pictures.py [--out docs/images]

Each picture is of a photograph of `examples/`. What is printed says, region by region, the answer
and what it should be; the exit code is 1 where a picture shows no fault any more, and another is to
be chosen. Whether masks fit is for the eye: run it, look, and see that the captions of
docs/reference/model_cards.md are still true.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import anyregion
from anyregion.proposals import box_iou
from anyregion.recognizer import Recognizer

ROOT = Path(__file__).parents[1]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Case:
    """One picture of a fault.

    Attributes:
        file: its name.
        photograph: of `examples/`.
        vocabulary: the names to choose from.
        boxes: xyxy; none are given where regions are proposed or shown by points.
        points: one `(x, y)` a region.
        right: the right name of each region.
        masks: whether masks are drawn.
        missed: boxes of things that no proposal meets.
    """

    file: str
    photograph: str
    vocabulary: tuple[str, ...]
    boxes: tuple[Box, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    right: tuple[str, ...] = ()
    masks: bool = False
    missed: tuple[Box, ...] = ()


TOWERS: tuple[Box, ...] = (
    (0, 0, 90, 427), (168, 122, 208, 380), (286, 125, 357, 408), (438, 122, 480, 427),
    (558, 0, 640, 427),
)  # fmt: skip
SHUTTLE, HELMET, FLAG = (355, 0, 472, 290), (278, 344, 508, 512), (0, 0, 97, 512)
CASES = (
    Case(
        "card-parts.jpg", "cat.jpg", ("eye", "nose", "ear", "cat"),
        boxes=((139, 84, 206, 142), (232, 222, 295, 273), (0, 0, 385, 300)),
        right=("eye", "nose", "cat"),
    ),
    Case(
        "card-surroundings.jpg", "astronaut.jpg", ("space shuttle", "helmet", "flag", "person"),
        boxes=(SHUTTLE, HELMET, FLAG), right=("space shuttle", "helmet", "flag"),
    ),
    Case(
        "card-words.jpg", "launch.jpg", ("rocket", "steel tower", "crane"), boxes=TOWERS,
        right=("steel tower", "steel tower", "rocket", "steel tower", "steel tower"),
    ),
    Case(
        "card-masks.jpg", "coffee.jpg", ("spoon", "saucer"),
        boxes=((325, 66, 426, 327), (76, 66, 480, 388)), right=("spoon", "saucer"), masks=True,
    ),
    Case(
        "card-points.jpg", "coffee.jpg", ("cup", "spoon", "saucer"),
        points=((300, 150), (370, 270), (100, 300)), right=("cup", "spoon", "saucer"), masks=True,
    ),
    Case(
        "card-proposals.jpg", "astronaut.jpg", ("person", "helmet", "flag", "space shuttle"),
        missed=(SHUTTLE, FLAG),
    ),
)  # fmt: skip


def draw_case(case: Case, recognizer: Recognizer, folder: Path) -> bool:
    """Draw a picture and print its answers; whether it shows a fault."""
    pixels = anyregion.read_image(ROOT / "examples" / case.photograph)
    if case.boxes:
        regions = anyregion.Regions.from_boxes(case.boxes)
    elif case.points:
        regions = anyregion.Regions.from_prompts(points=[[point] for point in case.points])
    else:
        regions = anyregion.load_proposer().propose(pixels)
    recognizer.set_image(pixels)
    predictions = recognizer.predict(regions, case.vocabulary, masks=case.masks)
    picture = anyregion.draw(pixels, predictions)
    picture.convert("RGB").save(folder / case.file, quality=85, optimize=True)
    print(case.file)
    for row, prediction in enumerate(predictions):
        right = f" (right: {case.right[row]})" if case.right else ""
        print(f"  {prediction.label} {prediction.score:.2f}{right}")
    if case.missed:
        return bool((box_iou(np.array(case.missed), predictions.boxes) < 0.5).all())
    return case.masks or predictions.labels != list(case.right)


def main() -> int:
    """Draw all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    args = parser.parse_args()
    recognizer = anyregion.load_recognizer()
    faults = [draw_case(case, recognizer, args.out) for case in CASES]
    for case, fault in zip(CASES, faults, strict=True):
        if not fault:
            print(f"card_pictures: {case.file} shows no fault", file=sys.stderr)
    return 0 if all(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
