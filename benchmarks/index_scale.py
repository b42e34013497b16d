"""Names, search and statistics of a large index, and how much faster several processes are.

    python benchmarks/index_scale.py names --index photos.index --work DIR --regions 1000000
    python benchmarks/index_scale.py workers --images PHOTOS --work DIR

`names` repeats the regions of a real index (`anyregion index`) until there are so many, each with
noise of a tenth of its length, in shards of 512 images as the real one's; names them by 1,000 names
of LVIS, which are new to it; searches; counts; and writes the results folder of the first shards,
whose cost it scales. `workers` indexes photographs by one process and by two, in turn.

CPU seconds are of this process and those it started. Peak memory is the sum over all of them, of
what each holds alone (PSS), looked at twice a second.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anyregion.index import (
    EngineOptions,
    IndexOptions,
    Query,
    RegionIndex,
    index_images,
    index_stats,
    name_index,
    search_index,
)
from anyregion.index.manifest import shard_paths
from anyregion.index.results import shard_predictions
from anyregion.index.shards import FEATURE, ShardWriter, boxes_of, halves_of
from anyregion.io.vocabulary import load_vocabulary
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Regions
from anyregion.runs.results_folder import ResultsFolder
from anyregion.vocabulary import Vocabulary

IMAGES_OF_SHARD = 512


@dataclass
class Cost:
    """What a piece of work took: seconds, CPU seconds, those of the child that took most, and
    memory in MB.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    busiest: float = 0.0
    memory: float = 0.0


class _Report(dict[str, object]):
    """What is measured, printed as soon as it is known."""

    def __setitem__(self, name: str, value: object) -> None:
        super().__setitem__(name, value)
        print(json.dumps({name: value}, default=lambda number: round(float(number), 2)), flush=True)


@contextmanager
def measured() -> Iterator[Cost]:
    """Fill in what the block costs."""
    cost, ended = Cost(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            children = map(cpu_seconds, family(os.getpid())[1:])
            cost.busiest = max(cost.busiest, *children, 0.0)
            cost.memory = max(cost.memory, sum(map(own_memory, family(os.getpid()))))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    started, cpu = time.perf_counter(), _cpu()
    try:
        yield cost
    finally:
        ended.set()
        watching.join()
        cost.seconds, cost.cpu = time.perf_counter() - started, _cpu() - cpu


def _cpu() -> float:
    usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def cpu_seconds(process: int) -> float:
    """User and system time of a process, without its children's."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family(process: int) -> list[int]:
    """A process and all that it started, by their numbers."""
    members = [process]
    for thread in Path(f"/proc/{process}/task").glob("*"):
        try:
            children = (thread / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            members += family(int(child))
    return members


def own_memory(process: int) -> float:
    """What a process holds alone, in MB."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    # pages of files that are read through memory belong to the system's cache
    kinds = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return kinds.get("Pss_Anon", kinds["Pss"]) / 1024


def repeat_index(source: RegionIndex, out: Path, regions: int, seed: int) -> RegionIndex:
    """Write an index of the regions of another, again and again, with noise."""
    chance = np.random.default_rng(seed)
    parts = []
    for number in range(len(source)):
        images = [image for image in source.images(number) if image.quarantined is None]
        columns = ["embedding", "id", "objectness", "x0", "y0", "x1", "y1"]
        columns += [FEATURE + name for name, _ in source.manifest.layout.features]
        blocks = list(source.blocks(number, columns))
        embeddings = np.concatenate([halves_of(b, "embedding") for b in blocks])
        boxes = np.concatenate([boxes_of(b) for b in blocks])
        scores = np.concatenate([b.column("objectness").to_numpy() for b in blocks])
        start = 0
        for image in images:
            rows = slice(start, start + image.regions)
            start += image.regions
            parts.append((image, embeddings[rows].astype(np.float32), boxes[rows], scores[rows]))
    of_parts = sum(len(embeddings) for _, embeddings, _, _ in parts)
    images = round(regions * len(parts) / of_parts)
    manifest = replace(
        source.manifest,
        layout=replace(source.manifest.layout, features=(), masks=False),
        images=images,
        shards=-(-images // IMAGES_OF_SHARD),
        plan=f"repeated with seed {seed}",
    )
    (out / "shards").mkdir(parents=True, exist_ok=True)
    for number in range(manifest.shards):
        paths = shard_paths(out, number)
        with ShardWriter(paths, manifest.fingerprint, manifest.layout) as writer:
            first = number * IMAGES_OF_SHARD
            for i in range(first, min(first + IMAGES_OF_SHARD, images)):
                image, embeddings, boxes, scores = parts[i % len(parts)]
                noise = chance.normal(size=embeddings.shape).astype(np.float32)
                lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
                noise *= 0.1 * lengths / np.sqrt(embeddings.shape[1])
                place = replace(image.image, name=f"{i:09}.jpg")
                stated = None if np.isnan(scores).any() else scores
                prompts = Regions.from_boxes(boxes, scores=stated)
                embedded = RegionEmbeddings(embeddings + noise, boxes)
                writer.add(replace(image, image=place), prompts, embedded)
            writer.finish()
    manifest.save(out)
    return RegionIndex(out, manifest)


def new_names(count: int) -> Vocabulary:
    """Names of LVIS that are not COCO's."""
    known = set(load_vocabulary("coco").names)
    names = [name for name in load_vocabulary("lvis").names if name not in known]
    return Vocabulary.from_names(names[:count])


def export(index: RegionIndex, named: object, work: Path, shards: int) -> tuple[int, Cost]:
    """Write results of the first shards; how many regions they have, and what that takes."""
    labeler = named.labeler  # type: ignore[attr-defined]
    regions = 0
    with measured() as cost:
        folder = ResultsFolder(
            work / "results", settings={}, root=work, version="0", overwrite=True
        )
        try:
            for number in range(min(shards, len(index))):
                for image, predictions in shard_predictions(labeler, number):
                    if predictions is not None:
                        folder.finish(image.image.name, predictions)
                        regions += image.regions
            folder.write_coco(labeler.vocabulary.vocabulary)
        finally:
            folder.journal.file.close()
    return regions, cost


def measure_names(args: argparse.Namespace) -> None:
    """Name, search, count and write."""
    source = RegionIndex.open(args.index)
    recognizer = source.load_recognizer()
    big = args.work / f"index-{args.regions}"
    if (big / "index.json").exists():
        index = RegionIndex.open(big)
    else:
        index = repeat_index(source, big, args.regions, args.seed)
    report = _Report()
    report["shards"], report["images"] = len(index), index.manifest.images
    report["bytes"] = sum(path.stat().st_size for path in big.glob("shards/*.parquet"))
    names = recognizer.encode_vocabulary(new_names(args.names))
    for path in big.glob("labels/*/*"):
        path.unlink()
    with measured() as cost:
        named = name_index(index, names, recognizer=recognizer, workers=args.workers)
    report["regions"] = named.regions
    report["name"] = vars(cost)
    query = Query.from_text(recognizer, "red bus")
    for run in ("search, first", "search, again"):
        with measured() as cost:
            search_index(index, query, recognizer, threads=args.workers)
        report[run] = vars(cost)
    with measured() as cost:
        index_stats(named.labeler)
    report["stats"] = vars(cost)
    regions, cost = export(index, named, args.work, shards=20)
    report["results folder"] = {"regions": regions, **vars(cost)}


def measure_workers(args: argparse.Namespace) -> None:
    """Index the same photographs by one process and by two, one after the other, each twice."""
    photos = sorted(args.images.rglob("*.jpg"))[: args.count]
    report = _Report()
    report["images"] = len(photos)
    for turn in (1, 2):
        for workers in (1, 2):
            with measured() as cost:
                made = index_images(
                    photos,
                    out=args.work / "index",
                    # enough shards for two
                    options=IndexOptions(shard_images=max(1, len(photos) // 16)),
                    engine=EngineOptions(workers=workers),
                    overwrite=True,
                )
            # what it would take on free cores: the longest of what is done side by side
            chain = cost.cpu if workers == 1 else cost.busiest
            stated = {
                "chain": chain,
                "load": os.getloadavg()[0],
                "seconds without loading": made.seconds,
                "regions": made.regions,
            }
            report[f"{workers} processes, turn {turn}"] = {**vars(cost), **stated}


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    names = kinds.add_parser("names")
    names.add_argument("--index", type=Path, required=True)
    names.add_argument("--regions", type=int, default=1_000_000)
    names.add_argument("--names", type=int, default=1_000)
    names.add_argument("--workers", type=int, default=2)
    names.add_argument("--seed", type=int, default=17)
    workers = kinds.add_parser("workers")
    workers.add_argument("--images", type=Path, required=True)
    workers.add_argument("--count", type=int, default=1_024)
    for each in (names, workers):
        each.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    measure = {"names": measure_names, "workers": measure_workers}[args.kind]
    measure(args)


if __name__ == "__main__":
    main()
