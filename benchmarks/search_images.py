"""How much of what is there `anyregion search --by image` finds, and how much of that is right.

    python benchmarks/search_images.py --data ../shared/data --work DIR [--out figures.json]

A photograph is to be found by a name if an object of that name is annotated in it. On COCO's `val`
each of its names is searched in two indexes, of the regions that are found by default and of more:
average precision of the ranking of all photographs, precision and recall from several similarities
on, recall by the size of the largest object, the best and the weakest names. For comparison there
are other rankings: the score of the words alone, the probability beside other names, and `--like` a
region of a photograph of `train`; and the same photographs lying on their side. On folders of whole
things (Imagenette, Caltech-101) and on clothes (CCP) words are searched that the region head was
not trained on. Indexes are made in `--work` unless they are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.compact.proposal_head import ProposalOptions
from anyregion.factory import load_recognizer
from anyregion.images import read_image
from anyregion.index import (
    LabelOptions,
    Query,
    RegionIndex,
    index_images,
    name_index,
    search_index,
)
from anyregion.index.region_index import row_starts
from anyregion.io.vocabulary import load_vocabulary
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.runs.pipeline import ProposedRegions
from anyregion.vocabulary import Vocabulary

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

INDEXES = {
    "default": ProposalOptions(),
    "more": ProposalOptions(limit=300, min_score=0.05),
}
SIMILARITIES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
# sides of the largest object of a name, as a square, over those of the photograph as a square
SIDES = (0.0, 0.05, 0.1, 0.2, 0.4, 1.01)
# regions of `train` that --like is given, of each name
SHOWN = 3
FOLDERS = {
    "Imagenette": "unlabelled/imagenette/val",
    "Caltech-101": "unlabelled/caltech101/val",
    "CCP": "ccp/images",
}


@dataclass(frozen=True, eq=False)
class Truth:
    """What the photographs of an index show.

    Attributes:
        names: `C`.
        shows: `(C, N)`.
        sides: `(C, N)`, of the largest object (`SIDES`); 0 where there is none.
    """

    names: list[str]
    shows: Flags
    sides: Floats


def open_index(paths: Any, out: Path, options: ProposalOptions) -> RegionIndex:
    """Made if it is not there."""
    index_images(paths, ProposedRegions(options=options), out=out)
    return RegionIndex.open(out)


def built_in(name: str) -> tuple[str, ...]:
    """The names of a vocabulary that comes with the package."""
    vocabulary = load_vocabulary(name)
    listed = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
    return listed.names


def positions(index: RegionIndex) -> dict[str, int]:
    """The images of an index, by name, numbered."""
    images = [image for number in range(len(index)) for image in index.images(number)]
    return {image.image.name: i for i, image in enumerate(images)}


def coco_truth(files: Sequence[Path], rows: dict[str, int]) -> Truth:
    """What annotations in COCO's layout say, of files with the same names."""
    parts = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    content = {**parts[0], "images": [], "annotations": []}
    for i, part in enumerate(parts):
        # images of several files may have one id
        content["images"] += [{**image, "id": (i, image["id"])} for image in part["images"]]
        content["annotations"] += [
            {**a, "image_id": (i, a["image_id"])} for a in part["annotations"]
        ]
    names = {category["id"]: category["name"] for category in content["categories"]}
    order = {category: i for i, category in enumerate(names)}
    images = {image["id"]: image for image in content["images"]}
    sides = np.zeros((len(names), len(rows)))
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        _, _, width, height = annotation["bbox"]
        at = order[annotation["category_id"]], rows[image["file_name"]]
        side = np.sqrt(width * height / (image["width"] * image["height"]))
        sides[at] = max(sides[at], side, 1e-6)
    return Truth(list(names.values()), sides > 0, sides)


def of_there(truth: Truth) -> Truth:
    """Without names that no photograph shows, which have no figures."""
    there = truth.shows.sum(axis=1) > 0
    names = [name for name, any_ in zip(truth.names, there.tolist(), strict=True) if any_]
    return Truth(names, truth.shows[there], truth.sides[there])


def turn(images: Path, names: Sequence[str], out: Path) -> Path:
    """The photographs turned by a quarter, in a folder of their own."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (out / name).is_file():
            turned = Image.fromarray(read_image(images / name)).transpose(Image.Transpose.ROTATE_90)
            turned.save(out / name, quality=95)
    return out


def folder_truth(rows: dict[str, int], file: Path) -> Truth:
    """What folders named by classes say; a file may state what their names stand for."""
    titles = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    classes: dict[str, list[int]] = {}
    for name, row in rows.items():
        folder = name.split("/")[0]
        classes.setdefault(titles.get(folder, folder.replace("_", " ")), []).append(row)
    shows = np.zeros((len(classes), len(rows)), dtype=bool)
    for i, of_class in enumerate(classes.values()):
        shows[i, of_class] = True
    return Truth(list(classes), shows, shows.astype(np.float64))


def by_similarity(
    index: RegionIndex, recognizer: Recognizer, queries: Sequence[Query], rows: dict[str, int]
) -> Floats:
    """What `search --by image` ranks by, `(C, N)`; -1 of photographs without a region."""
    values = np.full((len(queries), len(rows)), -1.0)
    for i, query in enumerate(queries):
        for match in search_index(index, query, recognizer, top=len(rows), by="image"):
            values[i, rows[match.image.image.name]] = match.similarity
    return values


def by_score(
    index: RegionIndex, recognizer: Recognizer, queries: Sequence[Query], rows: dict[str, int]
) -> Floats:
    """The best `score` of each photograph's regions, `(C, N)`."""
    values = np.full((len(queries), len(rows)), -1.0)
    for i, query in enumerate(queries):
        for match in search_index(index, query, recognizer, min_similarity=-1.0):
            row = rows[match.image.image.name]
            values[i, row] = max(values[i, row], match.score or 0.0)
    return values


def by_names(
    index: RegionIndex, recognizer: Recognizer, names: list[str], words: int, *, use_scores: bool
) -> Floats:
    """The best probability of each photograph's regions beside other names, `(words, N)`.

    Args:
        index: which.
        recognizer: its model.
        names: of the vocabulary, those that are looked for first.
        words: how many these are.
        use_scores: multiply by objectness.
    """
    options = LabelOptions(top_k=len(names), use_scores=use_scores, merge=False)
    labeler = name_index(index.folder, names, recognizer=recognizer, options=options).labeler
    best = []
    for number in range(len(index)):
        labels = labeler.read(number)
        scores = np.zeros((len(labels.indices), len(names)))
        np.put_along_axis(scores, labels.indices.astype(np.int64), labels.scores, axis=1)
        starts = row_starts(index.images(number))
        for start, end in pairwise(starts):
            best.append(scores[start:end, :words].max(axis=0, initial=0.0))
    return np.stack(best, axis=1)


def like_queries(
    recognizer: Recognizer, file: Path, images: Path, names: list[str], seed: int
) -> list[list[Query]]:
    """Of each name some regions of `train`, of a quarter of the photograph's sides at least."""
    chance = np.random.default_rng(seed)
    queries: list[list[Query]] = []
    content = json.loads(file.read_text(encoding="utf-8"))
    ids = {category["name"]: category["id"] for category in content["categories"]}
    of_id = {image["id"]: image for image in content["images"]}
    for name in names:
        usable = [
            a
            for a in content["annotations"]
            if a["category_id"] == ids[name]
            and not a["iscrowd"]
            and a["bbox"][2] * a["bbox"][3]
            >= of_id[a["image_id"]]["width"] * of_id[a["image_id"]]["height"] / 16
        ]
        chosen = chance.permutation(len(usable))[:SHOWN]
        of_name = []
        for annotation in (usable[i] for i in chosen):
            x, y, width, height = annotation["bbox"]
            pixels = read_image(images / of_id[annotation["image_id"]]["file_name"])
            regions = Regions.from_boxes([[x, y, x + width, y + height]])
            (embeddings,) = recognizer.embed([pixels], [regions])
            of_name.append(Query.from_embedding(name, embeddings[0]))
        queries.append(of_name)
    return queries


def average_precision(values: Floats, shows: Flags) -> float:
    """Of one ranking of photographs; of equal ones the earlier first."""
    hits = shows[np.argsort(-values, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum())


def from_on(values: Floats, shows: Flags, lowest: float) -> dict[str, float]:
    """Precision and recall of photographs from a value on, of all names and averaged by name."""
    listed = values >= lowest
    right, stated, there = ((a).sum(axis=1) for a in (listed & shows, listed, shows))
    by_name = right[stated > 0] / stated[stated > 0]
    return {
        "from": lowest,
        "precision": float(right.sum() / max(1, stated.sum())),
        "recall": float(right.sum() / there.sum()),
        "f1": float(2 * right.sum() / (stated.sum() + there.sum())),
        "precision_by_name": float(by_name.mean()) if len(by_name) else 0.0,
        "recall_by_name": float((right / there).mean()),
        "f1_by_name": float((2 * right / (stated + there)).mean()),
    }


def best_from_on(values: Floats, shows: Flags) -> dict[str, float]:
    """The one value for all names with the highest F1."""
    candidates = np.unique(np.quantile(values, np.linspace(0.3, 1, 300)))
    return max((from_on(values, shows, v) for v in candidates.tolist()), key=lambda r: r["f1"])


def figures(values: Floats, shows: Flags) -> dict[str, Any]:
    """Of one way to rank."""
    of_names = [average_precision(v, s) for v, s in zip(values, shows, strict=True)]
    return {
        "mean_average_precision": float(np.mean(of_names)),
        "best": best_from_on(values, shows),
        "by_name": of_names,
    }


def line(title: str, row: dict[str, Any]) -> str:
    """A row of the comparison, as Markdown."""
    best = row["best"]
    cells = [row["mean_average_precision"], best["f1"], best["precision"], best["recall"]]
    return f"| {title} | {' | '.join(f'{100 * c:.1f}' for c in cells)} | {best['from']:.3f} |"


def report(title: str, truth: Truth, values: Floats) -> dict[str, Any]:
    """Print and return what one index gives by similarity."""
    row = figures(values, truth.shows)
    at = [from_on(values, truth.shows, s) for s in SIMILARITIES]
    print(f"\n{title}: mean average precision {100 * row['mean_average_precision']:.1f}")
    print("| from | precision | recall | F1 | by name: precision | recall | F1 |")
    for r in at:
        keys = [k for k in r if k != "from"]
        print(f"| {r['from']:.2f} | {' | '.join(f'{100 * r[k]:.0f}' for k in keys)} |")
    sizes = []
    for low, high in pairwise(SIDES):
        of_size = truth.shows & (truth.sides >= low) & (truth.sides < high)
        recalls = (
            [float((values >= s)[of_size].mean()) for s in (0.3, 0.4)] if of_size.any() else []
        )
        sizes.append({"sides": [low, high], "photographs": int(of_size.sum()), "recall": recalls})
        if recalls and high <= SIDES[-1] and len(set(truth.sides.ravel())) > 2:
            texts = " and ".join(f"{100 * r:.0f}" for r in recalls)
            print(f"largest of {low:.2f} to {high:.2f} of the side ({of_size.sum()}): {texts}")
    return {**row, "at": at, "sizes": sizes}


def names_table(truth: Truth, values: Floats, lowest: float, few: int) -> list[dict[str, Any]]:
    """Print the names by average precision, those of too few photographs left out."""
    print("| name | photographs | AP | precision | recall |")
    rows: list[dict[str, Any]] = []
    for name, v, shows in zip(truth.names, values, truth.shows, strict=True):
        if shows.sum() >= few:
            r = from_on(v[None], shows[None], lowest)
            row = {"name": name, "photographs": int(shows.sum()), "ap": average_precision(v, shows)}
            rows.append({**row, **{key: r[key] for key in ("precision", "recall")}})
    rows.sort(key=lambda r: -float(r["ap"]))
    for r in rows:
        cells = [f"{100 * r[k]:.0f}" for k in ("ap", "precision", "recall")]
        print(f"| {r['name']} | {r['photographs']} | {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder shared/data")
    parser.add_argument("--work", type=Path, required=True, help="the indexes")
    parser.add_argument("--out", type=Path, help="all figures, as JSON")
    parser.add_argument("--seed", type=int, default=17, help="of the regions for --like")
    args = parser.parse_args()
    recognizer = load_recognizer("compact")
    coco = args.data / "coco"
    file = coco / "annotations/instances_val.json"
    listed = [i["file_name"] for i in json.loads(file.read_text(encoding="utf-8"))["images"]]
    everything: dict[str, Any] = {}
    shown: list[list[Query]] | None = None
    for which, options in INDEXES.items():
        place = args.work / f"coco-{which}.index"
        index = open_index([coco / "images" / name for name in listed], place, options)
        rows = positions(index)
        truth = of_there(coco_truth([file], rows))
        names = truth.names
        queries = [Query.from_text(recognizer, name) for name in names]
        values = by_similarity(index, recognizer, queries, rows)
        result = report(f"COCO val, {which}", truth, values)
        result["names"] = names_table(truth, values, 0.3, few=8)
        if shown is None:
            train = coco / "annotations/instances_train.json"
            shown = like_queries(recognizer, train, coco / "images", names, args.seed)
        ways = {"similarity": values}
        vocabularies = [("COCO's names", names)]
        if which == "default":  # what costs most, once
            ways["score of the words alone"] = by_score(index, recognizer, queries, rows)
            others = [name for name in built_in("lvis") if name not in names]
            vocabularies.append(("LVIS's names", [*names, *others]))
        for title, beside in vocabularies:
            for use in (False, True):
                way = f"probability beside {title}{', times objectness' if use else ''}"
                ways[way] = by_names(index, recognizer, beside, len(names), use_scores=use)
        print("\n| ranked by | mAP | F1 | precision | recall | from |")
        result["ways"] = {}
        for way, of_way in ways.items():
            result["ways"][way] = figures(of_way, truth.shows)
            print(line(way, result["ways"][way]), flush=True)
        # each region of `train` is a query of its own; names without a large one there are left out
        alike = [
            (i, by_similarity(index, recognizer, of_name, rows))
            for i, of_name in enumerate(shown)
            if of_name
        ]
        aps = [
            np.mean([average_precision(v, truth.shows[i]) for v in of_name]) for i, of_name in alike
        ]
        words = np.mean([result["by_name"][i] for i, _ in alike])
        result["like"] = {"names": len(alike), "map": float(np.mean(aps)), "words": float(words)}
        print(f"like one region of train: {result['like']}")
        everything[f"coco {which}"] = result
    index = open_index(
        turn(coco / "images", listed, args.work / "turned"),
        args.work / "coco-turned.index",
        INDEXES["more"],
    )
    rows = positions(index)
    truth = of_there(coco_truth([file], rows))
    queries = [Query.from_text(recognizer, name) for name in truth.names]
    values = by_similarity(index, recognizer, queries, rows)
    result = report("COCO val lying on the side, more", truth, values)
    result["names"] = names_table(truth, values, 0.3, few=8)
    everything["coco turned"] = result
    for title, folder in FOLDERS.items():
        for which, options in INDEXES.items():
            place = args.work / f"{title}-{which}.index"
            index = open_index([args.data / folder], place, options)
            rows = positions(index)
            annotations = sorted((args.data / folder).parent.glob("annotations/instances_*.json"))
            if annotations:
                truth = of_there(coco_truth(annotations, rows))
            else:
                truth = folder_truth(rows, (args.data / folder).parent / "classes.json")
            queries = [Query.from_text(recognizer, name) for name in truth.names]
            values = by_similarity(index, recognizer, queries, rows)
            result = report(f"{title}, {which}", truth, values)
            print(line("similarity", result))
            beside = list(dict.fromkeys([*truth.names, *built_in("coco")]))
            of_way = by_names(index, recognizer, beside, len(truth.names), use_scores=False)
            result["ways"] = {"beside": figures(of_way, truth.shows)}
            print(line("probability beside each other and COCO's", result["ways"]["beside"]))
            everything[f"{title} {which}"] = result
    if args.out is not None:
        args.out.write_text(json.dumps(everything, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
