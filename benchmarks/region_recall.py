"""How much of what people annotated each source of regions finds, and what it costs.

    python benchmarks/region_recall.py --data ../shared/data --out recall.jsonl [--photographs 60]
    python benchmarks/region_recall.py --data ../shared/data --out recall.jsonl --backbone runs/r2o

Average recall of the best 10, 100 and 1,000 regions, of boxes and of masks, on COCO's `val` (the
photographs with full masks), the LVIS sample and BSDS500 (the segments of one person), whatever the
class: a grid and superpixels alone as floors, merge trees by colour and by features, k-means, a
pretrained backbone's trees, `compact`'s proposals, and both together. Each row is kept in `--out`:
the same command again goes on. CPU seconds are of the process, one thread, with the masks of a
thousand regions; a grid's and superpixels' masks are judged too where there are any.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from anyregion.compact.proposal_head import ProposalOptions
from anyregion.evaluation.regions.proposal_quality import GridProposer, evaluate_proposals
from anyregion.factory import JOINT, TREES, load_proposer
from anyregion.images import Pixels
from anyregion.proposals import RegionProposer
from anyregion.region_trees.proposer import TreeOptions
from anyregion.regions import Regions

MOST = 1000
SETS = {
    "coco": ("coco/annotations/instances_val_masks.json", "coco/images"),
    "lvis": ("coco/annotations/lvis_v0.5_val_sample.json", "coco/images"),
    "bsds": ("bsds500/annotations/regions_val.json", "bsds500/images"),
}


class Timed:
    """A proposer with the CPU seconds that it took, and whether its regions have masks."""

    def __init__(self, proposer: RegionProposer) -> None:
        self.proposer, self.name = proposer, proposer.name
        self.seconds, self.masks = 0.0, False

    @property
    def fingerprint(self) -> str:
        """The proposer's."""
        return self.proposer.fingerprint

    def propose(self, image: Pixels) -> Regions:
        """See `RegionProposer`."""
        started = time.process_time()
        regions = self.proposer.propose(image)
        self.seconds += time.process_time() - started
        self.masks |= any(mask is not None for mask in regions.masks)
        return regions


def sources(backbone: str | None) -> dict[str, Callable[[], RegionProposer]]:
    """What loads each source, by the row's title."""

    def trees(where: str, **options: Any) -> Callable[[], RegionProposer]:
        return partial(
            load_proposer, f"{TREES}{where}", options=TreeOptions(limit=MOST, **options), tiles=0
        )

    boxes = ProposalOptions(limit=MOST, min_score=0.0)
    rows: dict[str, Callable[[], RegionProposer]] = {
        "grid": GridProposer,
        "superpixels alone": trees("colour", join="none"),
        "merge tree, mean colour": trees("colour"),
        "merge tree, compact's features": trees("compact"),
        "k-means, compact's features": trees("compact", join="kmeans"),
        "compact": partial(load_proposer, "compact", options=boxes, tiles=0),
        "compact and merge tree": partial(load_proposer, f"{JOINT}compact", options=boxes, tiles=0),
    }
    if backbone is not None:
        title = f"merge tree, {Path(backbone).name}"
        rows[title] = trees(backbone)
        rows[f"compact and {title}"] = partial(
            load_proposer, f"{JOINT}{backbone}", options=boxes, tiles=0
        )
    return rows


def measure(
    load: Callable[[], RegionProposer], data: Path, part: str, limit: int
) -> dict[str, Any]:
    """The figures of one source on one set."""
    annotations, images = (data / path for path in SETS[part])
    timed = Timed(load())
    report = evaluate_proposals(timed, annotations, images, masks=True, limit=limit)
    return {
        "ar": report.ar,
        "mask_ar": report.mask_ar if timed.masks else None,
        "recall50": report.recall50,
        "cpu_seconds": timed.seconds / report.images,
        "images": report.images,
        "things": report.things,
        "fingerprint": timed.fingerprint,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| | set | AR@10 | AR@100 | AR@1000 | of masks | CPU s |", "| --- " * 7 + "|"]
    for row in rows:
        keys = ("10", "100", "1000")
        cells = [f"{row['ar'][n]:.3f}" for n in keys]
        masks = row["mask_ar"]
        joined = "" if masks is None else " / ".join(f"{masks[n]:.3f}" for n in keys)
        cells += [joined, f"{row['cpu_seconds']:.2f}"]
        lines.append(f"| {row['source']} | {row['set']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder shared/data")
    parser.add_argument("--out", type=Path, required=True, help="figures, a JSON line each")
    parser.add_argument("--photographs", type=int, default=60, help="the first ones of each set")
    parser.add_argument("--backbone", help="a run or a folder of a backbone, or NAME@WEIGHTS")
    parser.add_argument("--only", nargs="*", help="titles of rows")
    parser.add_argument("--sets", nargs="*", default=[*SETS], choices=[*SETS])
    args = parser.parse_args()
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.is_file() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["source"], row["set"], row["photographs"]) for row in rows}
    for title, load in sources(args.backbone).items():
        for part in args.sets:
            key = (title, part, args.photographs)
            if key in done or (args.only and title not in args.only):
                continue
            figures = measure(load, args.data, part, args.photographs)
            row = {"source": title, "set": part, "photographs": args.photographs, **figures}
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
    print(table(sorted(rows, key=lambda row: row["set"])))


if __name__ == "__main__":
    main()
