"""An index whose processes are killed again and again, against one that nobody killed.

    python benchmarks/index_kills.py local --images photos.txt --work DIR --kills 20 --seed 17
    python benchmarks/index_kills.py ray --images photos.txt --work DIR --kills 2 --seed 17

`local` runs `anyregion index` with two workers, and kills (SIGKILL), as chance has it, the whole
group of its processes, which is begun again by the same command, or one of its workers. `ray`
starts a cluster of two nodes on this machine, kills the one that does not have the command, with
all workers on it, and starts another in its place. Times between kills are drawn evenly, so that
about two thirds of an unkilled run's work lie before the last kill. `local` counts them in CPU
seconds of the command and its workers: on a machine that others use, too, seconds say little.

What is asked of the killed index: every image once, the bytes of every file equal to those of the
unkilled one, and no other file in the folder. Linux alone: processes are found in `/proc`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from anyregion.index import RegionIndex
from index_scale import cpu_seconds, family, own_memory


def command(args: argparse.Namespace, out: Path, *more: str) -> list[str]:
    """`anyregion index` of the photographs into a folder."""
    return [
        sys.executable, "-m", "anyregion", "index", str(args.images), "--out", str(out),
        "--workers", str(args.workers), "--shard-images", str(args.shard_images), *more,
    ]  # fmt: skip


def start(line: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The command in a group of its own, which can be killed as one."""
    with log.open("ab") as file:
        return subprocess.Popen(line, stdout=file, stderr=file, start_new_session=True)


def run(line: list[str], out: Path, log: Path) -> dict[str, Any]:
    """The command, undisturbed: seconds, CPU seconds of it and all that it started, how many of
    these it took until a shard was there, and MB of its largest process after each quarter.
    """
    cpu: dict[int, float] = {}
    memory: dict[int, float] = {}
    started, first = time.perf_counter(), 0.0
    process = start(line, log)
    while process.poll() is None:
        cpu |= {member: cpu_seconds(member) for member in family(process.pid)}
        if not first and whole_shards(out):
            first = sum(cpu.values())
        if (shards := whole_shards(out)) not in memory:
            memory[shards] = max(map(own_memory, cpu), default=0.0)
        time.sleep(0.2)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(line)} ended with {process.returncode}: see {log}")
    cost = {"seconds": time.perf_counter() - started, "cpu": sum(cpu.values()), "first": first}
    stated: dict[str, Any] = {name: round(value, 2) for name, value in cost.items()}
    total = whole_shards(out)
    # the last one is looked at before its end
    quarters = [max((n for n in memory if n <= total * q / 4), default=0) for q in (1, 2, 3, 4)]
    return {**stated, "memory": [round(memory[n]) for n in quarters]}


def worker_processes(process: int) -> list[int]:
    """The workers among a command's processes."""
    workers = []
    for member in family(process)[1:]:
        try:
            line = Path(f"/proc/{member}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in line:
            workers.append(member)
    return workers


def whole_shards(out: Path) -> int:
    """How many shards are finished."""
    return len(list(out.glob("shards/*.regions.parquet")))


def kill_local(args: argparse.Namespace, out: Path, cost: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the command and kill it; of each kill what, when, and how many shards were whole."""
    chance, log = np.random.default_rng(args.seed), args.work / "killed.log"
    pause = cost["first"] + (cost["cpu"] - cost["first"]) / (1.5 * args.kills)
    line = command(args, out)
    kills: list[dict[str, Any]] = []
    process = start(line, log)
    before: dict[int, float] = {}
    cpu: dict[int, float] = {}
    while len(kills) < args.kills:
        after, spent = float(chance.uniform(0, 2 * pause)), 0.0
        while spent < after and process.poll() is None:
            time.sleep(0.1)
            cpu = {member: cpu_seconds(member) for member in family(process.pid)}
            spent = sum(max(0.0, cpu[member] - before.get(member, 0.0)) for member in cpu)
        before = cpu
        if process.poll() == 0:
            raise SystemExit(f"it was whole after {len(kills)} kills: more images, or fewer kills")
        alive = process.poll() is None
        workers = worker_processes(process.pid) if alive else []
        if workers and chance.random() < 0.5:
            kind = "worker"
            os.kill(workers[int(chance.integers(len(workers)))], signal.SIGKILL)
        elif alive:
            kind = "group"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:  # of workers that died thrice in a row the command says so, and ends
            kind = "none: it had given up"
        kills.append({"kill": kind, "after": round(after, 2), "whole shards": whole_shards(out)})
        print(json.dumps(kills[-1]), flush=True)
        if process.poll() is not None:
            kills = [k for k in kills if not str(k["kill"]).startswith("none")]
            process = start(line, log)
    while process.wait() != 0:
        process = start(line, log)
    return kills


def kill_nodes(args: argparse.Namespace, out: Path, cost: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the command on two nodes of Ray, and kill the second one again and again."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    chance = np.random.default_rng(args.seed)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    kills: list[dict[str, Any]] = []
    try:
        node = cluster.add_node(num_cpus=1)
        more = ("--engine", "ray", "--address", cluster.address)
        process = start(command(args, out, *more), args.work / "killed.log")
        while not whole_shards(out) and process.poll() is None:  # the workers are there
            time.sleep(0.1)
        for _ in range(args.kills):
            after = float(chance.uniform(0, 2 * cost["seconds"] / (1.5 * args.kills)))
            time.sleep(after)
            if process.poll() is not None:
                raise SystemExit(f"it ended after {len(kills)} kills: more images, or fewer kills")
            cluster.remove_node(node, allow_graceful=False)
            shards = whole_shards(out)
            kills.append({"kill": "node", "after": round(after, 2), "whole shards": shards})
            print(json.dumps(kills[-1]), flush=True)
            node = cluster.add_node(num_cpus=1)
        if process.wait() != 0:
            raise SystemExit(f"the command ended with {process.returncode}: see killed.log")
    finally:
        cluster.shutdown()
    return kills


def compare(whole: Path, killed: Path) -> dict[str, Any]:
    """What is different between two indexes, and the images that are not there exactly once."""
    files = [
        {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
        for folder in (whole, killed)
    ]
    names = Counter(
        image.image.name
        for index in [RegionIndex.open(killed)]
        for number in range(len(index))
        for image in index.images(number)
    )
    expected = RegionIndex.open(whole)
    images = {i.image.name for n in range(len(expected)) for i in expected.images(n)}
    return {
        "images": len(names),
        "lost images": len(images - names.keys()),
        "images twice": sum(count > 1 for count in names.values()),
        "files left over": sorted(map(str, files[1].keys() - files[0].keys())),
        "files missing": sorted(map(str, files[0].keys() - files[1].keys())),
        "files with other bytes": sorted(
            str(name)
            for name in files[0].keys() & files[1].keys()
            if files[0][name].read_bytes() != files[1][name].read_bytes()
        ),
        "files": len(files[0]),
    }


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=["local", "ray"])
    parser.add_argument("--images", type=Path, required=True, help="a folder, or a list of images")
    parser.add_argument("--work", type=Path, required=True, help="a folder for both indexes")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-images", type=int, default=16)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    whole, killed = args.work / "whole", args.work / f"killed-{args.kind}"
    if killed.exists():
        raise SystemExit(f"{killed}: is there already")
    if whole_shards(whole):
        cost = json.loads((args.work / "whole.json").read_text())
    else:
        cost = run(command(args, whole), whole, args.work / "whole.log")
        (args.work / "whole.json").write_text(json.dumps(cost))
    print(json.dumps({"unkilled": cost}), flush=True)
    if args.kind == "ray":
        out = args.work / "whole-ray"
        cost = run(command(args, out, "--engine", "ray"), out, args.work / "whole-ray.log")
        print(json.dumps({"unkilled, on Ray": cost, **compare(whole, out)}), flush=True)
    started = time.perf_counter()
    kill = {"local": kill_local, "ray": kill_nodes}[args.kind]
    kills = kill(args, killed, cost)
    taken = {"seconds": round(time.perf_counter() - started, 1)}
    result = compare(whole, killed)
    print(json.dumps({"kills": Counter(k["kill"] for k in kills), **taken, **result}))
    faults = ("lost images", "images twice", "files left over", "files missing")
    if len(kills) < args.kills or any(result[name] for name in (*faults, "files with other bytes")):
        raise SystemExit("the indexes differ")


if __name__ == "__main__":
    main()
