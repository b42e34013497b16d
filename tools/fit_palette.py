"""The palette of pictures: 20 colours far apart, also for people who see fewer, and its salt.

    python tools/fit_palette.py

prints the lines of `anyregion/drawing/palette.py`, and how far apart the colours are. Each colour
is the farthest from those before it, from grey and from black and white, by the least of its
distances in OKLab as everybody sees it, and as protanopes, deuteranopes and tritanopes do (Machado
et al., 2009, severity 1).
"""

from __future__ import annotations

import argparse
import hashlib

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# linear RGB as those see it who lack one kind of cones: Machado et al. (2009), severity 1.0
SIMULATIONS = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
# two cones span a plane, not a space: there 20 colours are nearer, whatever is chosen. With less
# weight on all cones they come out as purples and greens alone. Tritanopia is rare (1 of 10,000)
WEIGHTS = {"all cones": 1.0, "protanopia": 2.5, "deuteranopia": 2.5, "tritanopia": 3.0}
# vivid, and neither black nor white: seen as a line on any photograph
LEAST_CHROMA, LIGHTNESS = 0.12, (0.5, 0.96)
GREY = (150, 150, 150)  # what "none of these" is drawn in
# names that people meet together in a picture: the first of COCO, and those of the examples
FIRST_MET = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("dog", "cat", "bird", "horse", "sheep", "cow", "chair", "couch", "bottle", "cup", "fork"),
    *("knife", "spoon", "bowl", "banana", "apple", "orange", "table", "tv", "laptop", "book"),
    *("saucer", "tree", "house"),
)


def linear(rgb: Floats) -> Floats:
    """sRGB from 0 to 255 as linear values from 0 to 1."""
    c = rgb / 255
    values: Floats = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return values


def oklab(rgb: Floats) -> Floats:
    """Linear RGB `(N, 3)` in OKLab (Ottosson, 2020)."""
    lms = rgb.clip(0) @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    values: Floats = np.cbrt(lms) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
    return values


def seen(rgb: Floats) -> dict[str, Floats]:
    """Colours `(N, 3)` in OKLab, by who sees them."""
    return {name: oklab(linear(rgb) @ matrix.T) for name, matrix in SIMULATIONS.items()}


def distances(views: dict[str, Floats], rows: int | slice) -> Floats:
    """The least weighted distance of every colour from one, `(N,)`."""
    each = [WEIGHTS[name] * np.linalg.norm(lab - lab[rows], axis=1) for name, lab in views.items()]
    least: Floats = np.min(each, axis=0)
    return least


def choose(count: int) -> NDArray[np.int64]:
    """The palette `(count, 3)`, each the farthest from those before it."""
    steps = np.arange(0, 256, 15)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = oklab(linear(grid.astype(np.float64)))
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (chroma >= LEAST_CHROMA) & (lab[:, 0] >= LIGHTNESS[0]) & (lab[:, 0] <= LIGHTNESS[1])
    fixed = np.array([GREY, (0, 0, 0), (255, 255, 255)])
    colours = np.concatenate([fixed, grid[usable]])
    views = seen(colours.astype(np.float64))
    nearest = np.min([distances(views, row) for row in range(len(fixed))], axis=0)
    # the first is a strong red, as before: the others follow from it
    rows = [len(fixed) + int(np.abs(colours[len(fixed) :] - [255, 75, 45]).sum(axis=1).argmin())]
    nearest = np.minimum(nearest, distances(views, rows[0]))
    while len(rows) < count:
        rows.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distances(views, rows[-1]))
    palette: NDArray[np.int64] = colours[rows]
    return palette


def choose_salt(palette: NDArray[np.int64], tries: int) -> int:
    """The salt under which the first so many names that people meet share the fewest colours."""
    views = seen(palette.astype(np.float64))
    apart = np.stack([distances(views, row) for row in range(len(palette))])
    best, best_cost = 0, np.inf
    above = np.triu(np.ones((len(FIRST_MET), len(FIRST_MET)), bool), k=1)
    for salt in range(tries):
        rows = [
            int.from_bytes(
                hashlib.blake2s(
                    name.encode(), digest_size=4, salt=salt.to_bytes(2, "little")
                ).digest(),
                "little",
            )
            % len(palette)
            for name in FIRST_MET
        ]
        # early names count more: they are in most pictures
        cost = float(np.exp(-apart[rows][:, rows] / 0.05)[above].sum())
        cost += 4 * float(np.exp(-apart[rows[:12]][:, rows[:12]] / 0.05)[above[:12, :12]].sum())
        if cost < best_cost:
            best, best_cost = salt, cost
    return best


def report(name: str, palette: NDArray[np.int64]) -> None:
    """How far apart the colours of a palette are, for whom."""
    above = np.triu(np.ones((len(palette), len(palette)), bool), k=1)
    parts = []
    for who, lab in seen(palette.astype(np.float64)).items():
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)[above]
        parts.append(f"{who} {apart.min():.3f}")
    print(f"# {name}: least distance in OKLab: " + ", ".join(parts))


def main() -> None:
    """Print the palette and the salt."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--colours", type=int, default=20)
    parser.add_argument("--salts", type=int, default=65536)
    args = parser.parse_args()
    palette = choose(args.colours)
    for count in (8, 12, args.colours):
        report(f"the first {count}", palette[:count])
    print(" ".join("".join(f"{v:02x}" for v in colour) for colour in palette.tolist()))
    print("salt", choose_salt(palette, args.salts))


if __name__ == "__main__":
    main()
