"""Draws the pictures of docs/results/gallery.md, and prints what each says.

    python tools/gallery.py [--out docs/images/gallery]

Made anew whenever the built-in model or the drawing is another; captions are then held against what
is printed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import anyregion
from anyregion import Recognizer, Regions
from anyregion.predictions import Predictions
from anyregion.proposals import RegionProposer

ROOT = Path(__file__).parents[1]
SCENE = "rocket, steel tower, space shuttle, helmet, flag, cat, espresso cup, dog, bicycle"


@dataclass(frozen=True)
class Picture:
    """One picture of the gallery.

    Attributes:
        name: of its file.
        photograph: of `examples/`, without its suffix.
        names: the vocabulary, with commas between.
        regions: boxes or points; None for those of `examples/regions.json`, `auto` for found ones.
    """

    name: str
    photograph: str
    names: str
    regions: Regions | str | None = None


PICTURES = [
    Picture("launch", "launch", SCENE),
    Picture("astronaut", "astronaut", SCENE),
    Picture("cat", "cat", SCENE),
    Picture(
        "coffee_parts", "coffee", "cup, spoon, saucer, table",
        Regions.from_boxes([[172, 18, 425, 308], [325, 66, 426, 327], [76, 66, 480, 388]]),
    ),
    Picture("coffee_point", "coffee", "cup, spoon, saucer, table",
            Regions.from_prompts(points=[[[250, 180]], [[375, 250]]])),
    Picture("coffee_found", "coffee", "cup, spoon, saucer, table", "auto"),
    Picture("launch_found", "launch", SCENE, "auto"),
    Picture("astronaut_found", "astronaut", "person, flag, helmet, space shuttle", "auto"),
    Picture("cat_found", "cat", "cat, dog, bicycle", "auto"),
    Picture("cat_absent", "cat", "dog, horse, bicycle, bus"),
    Picture("cat_near", "cat", "tiger, lynx, fox, dog"),
    Picture("launch_hard", "launch", "chimney, lighthouse, crane, ladder, lightning rod"),
]  # fmt: skip


def regions_of(picture: Picture, proposer: RegionProposer) -> Regions:
    """The regions that a picture shows."""
    photograph = ROOT / "examples" / f"{picture.photograph}.jpg"
    if picture.regions is None:
        file = anyregion.load_regions(ROOT / "examples/regions.json")
        (image,) = (i for i in file.images.values() if i.file_name == photograph.name)
        return image.regions
    if picture.regions == "auto":
        return proposer.propose(anyregion.read_image(photograph))
    assert isinstance(picture.regions, Regions)
    return picture.regions


def named(picture: Picture, recognizer: Recognizer, proposer: RegionProposer) -> Predictions:
    """What the model says of the picture's regions."""
    pixels = anyregion.read_image(ROOT / "examples" / f"{picture.photograph}.jpg")
    names = [name.strip() for name in picture.names.split(",")]
    regions = regions_of(picture, proposer)
    (predictions,) = recognizer.recognize([pixels], [regions], names, masks=True)
    return predictions


def main(arguments: argparse.Namespace) -> int:
    """Draw all pictures."""
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    recognizer, proposer = anyregion.load_recognizer(), anyregion.load_proposer()
    for picture in PICTURES:
        predictions = named(picture, recognizer, proposer)
        pixels = anyregion.read_image(ROOT / "examples" / f"{picture.photograph}.jpg")
        anyregion.draw(pixels, predictions).save(out / f"{picture.name}.jpg", quality=82)
        print(picture.name)
        for prediction in predictions:
            box = " ".join(f"{side:.0f}" for side in prediction.box)
            print(f"  {prediction.label} {prediction.score:.2f}  [{box}]")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=str(ROOT / "docs/images/gallery"))
    sys.exit(main(parser.parse_args()))
