"""What naming costs beside another checkout of the project: CPU of whole commands, one thread.

    git worktree add OLD 9a6b352
    python benchmarks/recognize_cost.py --against OLD

Each command runs in a process of its own with one thread a graph (else threads that wait in busy
loops would count, of checkouts that let them), in turns: the other checkout's,
then this one's (and this one's with `--fast`). What starting costs is taken out: of every command
there is a short one (few images, names or boxes), and the difference counts. The least of some
rounds is printed, per image, for 10,000 names, and for 1,000 boxes of one photograph; and the
ratio of the other checkout's to this one's. Photographs and boxes are COCO's, of the folder
`ANYREGION_SHARED`, or `--annotations` and `--images`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ANYREGION_SHARED", ROOT.parent / "shared"))
CASES = ("boxes", "masks", "auto", "names", "many")
KINDS = ("red", "old", "small", "wooden", "broken", "striped")
ONE_THREAD = """
import os, sys
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime
class OneThread(onnxruntime.InferenceSession):
    def __init__(self, graph, options, **others):
        options.intra_op_num_threads = 1
        super().__init__(graph, options, **others)
onnxruntime.InferenceSession = OneThread
"""
COMMAND = ONE_THREAD + "from anyregion.cli.main import main; sys.exit(main(sys.argv[1:]))"
NAME = (
    ONE_THREAD
    + """
import json
from anyregion import load_recognizer
with open(sys.argv[1], encoding="utf-8") as file:
    names = json.load(file)
load_recognizer(cache=None).encode_vocabulary(names)
"""
)
# of the short command of each pair
FEW = 4


class Commands:
    """Writes what commands read, and runs them with either checkout."""

    def __init__(self, folder: Path, annotations: Path, images: Path, count: int) -> None:
        self.folder, self.count = folder, count
        content = json.loads(annotations.read_text(encoding="utf-8"))
        annotated = {a["image_id"] for a in content["annotations"]}
        listed = [i for i in content["images"] if i["id"] in annotated][: FEW + count]
        self.count = len(listed) - FEW
        for size, part in (("short", listed[:FEW]), ("long", listed)):
            (folder / size).mkdir()
            for image in part:
                source = (images / image["file_name"]).resolve()
                (folder / size / Path(image["file_name"]).name).symlink_to(source)
        self.regions = annotations
        self._write_names()
        self._write_boxes(listed[0], images)

    def _write_names(self) -> None:
        vocabularies = ROOT / "src" / "anyregion" / "vocabularies"
        nouns: dict[str, None] = {}
        for name in ("coco", "lvis", "objects365", "openimages", "imagenet"):
            listed = json.loads((vocabularies / f"{name}.json").read_text(encoding="utf-8"))
            nouns |= dict.fromkeys(c["name"].replace("_", " ") for c in listed["categories"])
        names = [*nouns, *(f"{kind} {noun}" for kind in KINDS for noun in nouns)][:10_000]
        (self.folder / "names-long.json").write_text(json.dumps(names), encoding="utf-8")
        (self.folder / "names-short.json").write_text(json.dumps(names[:FEW]), encoding="utf-8")

    def _write_boxes(self, image: Mapping[str, Any], images: Path) -> None:
        import numpy as np

        random = np.random.default_rng(0)
        sides = np.array([image["width"], image["height"]], dtype=float)
        low = random.uniform(0, sides - 40, (1000, 2))
        high = np.minimum(low + random.uniform(15, 200, (1000, 2)), sides)
        boxes = np.concatenate([low, high - low], axis=1).round(2).tolist()
        self.photo = images / image["file_name"]
        for size, part in (("short", boxes[:FEW]), ("long", boxes)):
            content = {
                "images": [dict(image)],
                "annotations": [
                    {"id": i, "image_id": image["id"], "category_id": 1, "bbox": box}
                    for i, box in enumerate(part, 1)
                ],
                "categories": [{"id": 1, "name": "thing"}],
            }
            path = self.folder / f"boxes-{size}.json"
            path.write_text(json.dumps(content), encoding="utf-8")

    def arguments(self, case: str, size: str) -> list[str]:
        """What Python is called with."""
        if case == "names":
            return ["-c", NAME, str(self.folder / f"names-{size}.json")]
        many = case == "many"
        paths = self.photo if many else self.folder / size
        regions = self.folder / f"boxes-{size}.json" if many else self.regions
        command = ["-c", COMMAND, "recognize", str(paths), "--vocabulary", "coco"]
        command += ["--regions", "auto" if case == "auto" else str(regions), "--no-pictures"]
        command += ["--overwrite", "--out", str(self.folder / "out")]
        return command + ["--masks"] * (case in ("masks", "many"))

    def seconds(self, checkout: Path, case: str, size: str, more: Sequence[str]) -> float:
        """CPU seconds of one command, user and system."""
        environment = os.environ | {
            "PYTHONPATH": str(checkout / "src"),
            "ANYREGION_CACHE": str(self.folder / f"cache-{checkout.name}"),
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        }
        command = [sys.executable, *self.arguments(case, size), *more]
        with (self.folder / "said.txt").open("w+") as said:
            process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=said, stderr=said
            )
            _, status, usage = os.wait4(process.pid, 0)
            if os.waitstatus_to_exitcode(status) not in (0, 3):  # 3: a region was set aside
                said.seek(0)
                sys.exit(f"{' '.join(command)}\n{said.read()}")
        return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--case", choices=CASES, action="append", help="unless given, all")
    coco = SHARED / "data" / "coco"
    parser.add_argument(
        "--annotations", type=Path, default=coco / "annotations" / "instances_val.json"
    )
    parser.add_argument("--images", type=Path, default=coco / "images")
    parser.add_argument("--count", type=int, default=60, help="images beside those of the start")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # commands keep to it, too: one thread each
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(Path(folder), args.annotations, args.images, args.count)
        other = args.against.resolve()
        print(f"CPU ms: {'against':>19} {'here':>10} {'ratio':>6} {'--fast':>10} {'ratio':>6}")
        for case in args.case or CASES:
            ways: list[tuple[Path, list[str]]] = [(other, []), (ROOT, [])]
            ways += [(ROOT, ["--fast"])] * (case not in ("names", "many"))
            costs: list[list[float]] = [[] for _ in ways]
            for _ in range(args.rounds):
                for (checkout, more), seconds in zip(ways, costs, strict=True):
                    long, short = (
                        commands.seconds(checkout, case, size, more) for size in ("long", "short")
                    )
                    seconds.append(long - short)
            parts = commands.count if case in ("boxes", "masks", "auto") else 1
            best = [1e3 * min(seconds) / parts for seconds in costs]
            row = f"{case:8} {best[0]:18.1f} {best[1]:10.1f} {best[0] / best[1]:6.2f}"
            if len(best) > 2:
                row += f" {best[2]:10.1f} {best[0] / best[2]:6.2f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
