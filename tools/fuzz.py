"""Calls the command line and the Python API with damaged inputs, and reports what is a fault.

    python tools/fuzz.py [--calls N] [--seed N] [--only TARGET ...] [--keep DIR] [--json FILE]

Faults are: an exception that leaves `main` or, from Python, is none of the package's; a traceback
in what is printed; an exit code beside 0 to 3; a call that takes over 30 seconds of a core (or 300
by the clock); 2 GB of memory more than before the call; a network call, or a process that is
started, as Python's audit events tell. Each call has a seed of its own made of `--seed` and its
number, so that one is repeated by `--first NUMBER --calls 1`. Calls run in child processes, one
after the other in each, so that one that dies or hangs is a fault and not the end. The exit code is
1 where there was a fault; their inputs stay in `--keep`, with the command in `command.txt`. With
`--resume` the calls of which `--json` holds the result are not made again.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tools")]

from fuzz_inputs import TARGETS, Originals  # noqa: E402

MEMORY = 2 * 2**30
ALLOWED = {0, 1, 2, 3}
WATCHED = {
    "socket.connect",
    "socket.getaddrinfo",
    "socket.bind",
    "socket.sendto",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
}
# what is no fault: importing torch asks ldconfig where libdl is, its exporter asks for the
# processor, supervision's import of urllib3 tries whether this machine has IPv6 by a socket of its
# own, and a training notes the commit of the code
EXPECTED = [
    "/sbin/ldconfig",
    "['uname', '-p']",
    "('::1', 0)",
    "'rev-parse', 'HEAD'",
    "'status', '--p",
]


def draw(seed: int, number: int, only: list[str]) -> tuple[str, random.Random]:
    """The target of a call, and its generator of random numbers."""
    rng = random.Random(f"{seed}/{number}")
    names = only or list(TARGETS)
    return rng.choices(names, [TARGETS[name][1] for name in names])[0], rng


def memory_of(entry: str) -> int:
    """Bytes of this process: `VmRSS`, what it holds; `VmHWM`, the peak since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def finished(log: Path | None) -> dict[int, dict[str, Any]]:
    """The results that a log holds, by the calls' numbers."""
    if log is None or not log.is_file():
        return {}
    lines = log.read_text().splitlines(keepends=True)
    results = [json.loads(line) for line in lines if line.endswith("\n")]
    return {result["number"]: result for result in results}


def child(options: argparse.Namespace) -> None:
    """Run calls; a line of JSON on stdout before and after each."""
    seed, only, work = options.seed, options.only, options.child
    numbers = range(options.first, options.first + options.calls)
    done = finished(options.json) if options.resume else {}
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print themselves must not mix with the reports
    # without it a call that wants 20 GB would take the machine down before it is seen
    resource.setrlimit(resource.RLIMIT_DATA, (6 * 2**30, 6 * 2**30))
    events: list[str] = []

    def watch(name: str, args: tuple[Any, ...]) -> None:
        text = f"{name} {args!r:.200}"
        if name in WATCHED and not any(part in text for part in EXPECTED):
            events.append(text)

    sys.addaudithook(watch)
    from anyregion.cli.main import main
    from anyregion.errors import AnyRegionError

    originals = Originals(work / "originals")
    for number in numbers:
        if number in done:
            continue
        target, rng = draw(seed, number, only)
        folder = work / f"call-{number}"
        folder.mkdir(parents=True)
        generate = TARGETS[target][0]
        call = generate(rng, folder, originals)
        python = callable(call)
        text = str(call.__doc__) if python else "anyregion " + " ".join(call)
        (folder / "command.txt").write_text(text, errors="backslashreplace")
        print(json.dumps({"number": number, "target": target, "started": True}), file=reports)
        # as a terminal of another locale would
        encoding = rng.choice(["utf-8", "utf-8", "ascii", "latin-1"])
        printed, errors = (
            io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, write_through=True)
            for errors in ("strict", "backslashreplace")
        )
        forget_peak()
        # a child keeps the packages that earlier calls loaded: half a gigabyte with torch
        before = memory_of("VmRSS")
        events.clear()
        started, fault, code = time.perf_counter(), None, None
        try:
            with redirect_stdout(printed), redirect_stderr(errors):
                code = (call() or 0) if python else main(call)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 2
        except AnyRegionError as error:
            code, fault = 1, None if python else traceback.format_exc()
            print(error, file=errors)
        except BaseException:
            fault = traceback.format_exc()
        text = "".join(s.buffer.getvalue().decode("utf-8", "replace") for s in (printed, errors))
        memory = memory_of("VmHWM") - before
        if fault is None and "Traceback (most recent call last)" in text:
            fault = f"printed a traceback: {text[-3000:]}"
        if fault is None and code not in ALLOWED:
            fault = f"exit code {code}: {text[-500:]}"
        if fault is None and memory > MEMORY:
            fault = f"{memory / 2**30:.1f} GB: {text[-500:]}"
        if fault is None and events:
            fault = f"audit event: {events[0]}"
        result: dict[str, Any] = {
            "number": number,
            "target": target,
            "code": code,
            "fault": fault,
            "seconds": time.perf_counter() - started,
            "memory": memory,
            "text": text[-300:],
        }
        print(json.dumps(result), file=reports)
        if fault is None:
            shutil.rmtree(folder, ignore_errors=True)


def seconds_of(process: int) -> float:
    """The seconds that a process has used of a core, in all its threads."""
    try:
        # the name before them, in brackets, may hold anything
        numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


class Worker:
    """A child process and the calls that are its."""

    def __init__(self, options: argparse.Namespace, first: int, stop: int, work: Path) -> None:
        self.options, self.next, self.stop, self.work = options, first, stop, work
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.folder = self.work / f"{self.next}-{self.starts}"
        self.folder.mkdir(parents=True)
        words = [
            "--child",
            str(self.folder),
            "--seed",
            str(self.options.seed),
            "--first",
            str(self.next),
            "--calls",
            str(self.stop - self.next),
            *(["--resume", "--json", str(self.options.json)] if self.options.resume else []),
        ]
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HOME": str(self.folder),
            "PYTHONUTF8": "1",
            "ANYREGION_CACHE": str(self.folder / "cache"),
            "TRANSFORMERS_VERBOSITY": "error",
        }
        self.process = subprocess.Popen(
            [
                sys.executable,
                __file__,
                *words,
                *(["--only", *self.options.only] if self.options.only else []),
            ],
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr.txt").open("w"),
            env=environment,
        )
        self.since, self.current, self.buffer = time.monotonic(), "", b""
        self.running, self.used = False, 0.0

    def read(self) -> list[dict[str, Any]]:
        assert self.process.stdout is not None
        chunk = os.read(self.process.stdout.fileno(), 1 << 16)
        *lines, self.buffer = (self.buffer + chunk).split(b"\n")
        results = []
        for line in lines:
            report = json.loads(line)
            self.since, self.current = time.monotonic(), report["target"]
            self.next, self.running = report["number"], "started" in report
            self.used = seconds_of(self.process.pid)
            if not self.running:
                results.append(report)
                self.next = report["number"] + 1
        if not chunk and self.next < self.stop:
            if self.process.wait() == 0 and not self.running:
                self.next = self.stop  # what is left was done before
            else:
                results.append(self.lost(f"the process died with {self.process.wait()}"))
        return results

    def hangs(self, limit: float) -> bool:
        """Whether the call took so many seconds of a core, or ten times as many of the clock.

        Where others use the machine too, the clock alone would tell of them.
        """
        passed = time.monotonic() - self.since
        return passed > limit and (
            seconds_of(self.process.pid) - self.used > limit or passed > 10 * limit
        )

    def lost(self, reason: str) -> dict[str, Any]:
        """The call that killed or hung the process; the next one starts another."""
        self.process.kill()
        self.process.wait()
        last = (self.folder / "stderr.txt").read_text(errors="replace")[-1500:]
        number, self.next = self.next, self.next + 1
        result = {
            "number": number,
            "target": self.current,
            "code": None,
            "seconds": time.monotonic() - self.since,
            "fault": f"{reason}\n{last}",
            "memory": 0,
            "folder": str(self.folder),
        }
        if self.next < self.stop:
            self.start()
        return result


def signature(fault: str) -> str:
    """Faults of one kind have one: the last line, and where in the package it was."""
    lines = [line.strip() for line in fault.strip().splitlines()]
    places = [line for line in lines if line.startswith("File") and "/anyregion/" in line]
    place = places[-1].rpartition("/anyregion/")[2] if places else ""
    return f"{lines[-1][:100] if places else lines[0][:100]} | {place[:80]}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds a call may take")
    parser.add_argument("--only", nargs="+", default=[], choices=list(TARGETS))
    parser.add_argument("--keep", type=Path, help="where the inputs of faults are copied to")
    parser.add_argument("--json", type=Path, help="write every call's result, a line each")
    parser.add_argument("--resume", action="store_true", help="go on where --json ends")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return 0
    work = Path(tempfile.mkdtemp(prefix="anyregion-fuzz-"))
    bounds = [
        options.first + options.calls * i // options.workers for i in range(options.workers + 1)
    ]
    workers = [Worker(options, a, b, work) for a, b in itertools.pairwise(bounds) if a < b]
    done = finished(options.json) if options.resume else {}
    results = list(done.values())
    log = options.json.open("a" if options.resume else "w") if options.json else None
    try:
        while active := [w for w in workers if w.next < w.stop]:
            ready, _, _ = select.select([w.process.stdout for w in active], [], [], 1.0)
            for worker in active:
                reports = worker.read() if worker.process.stdout in ready else []
                # between calls originals are made and packages loaded
                limit = options.timeout + (60 if not worker.running else 0)
                if not reports and worker.next < worker.stop and worker.hangs(limit):
                    reports = [worker.lost(f"took over {options.timeout:.0f} s")]
                for result in reports:
                    results.append(result)
                    if log:
                        print(json.dumps(result), file=log, flush=True)
                    if result["fault"]:
                        report(result, worker, options)
    finally:
        for worker in workers:
            worker.process.kill()
        shutil.rmtree(work, ignore_errors=True)
    faults = Counter(signature(r["fault"]) for r in results if r["fault"])
    print(
        f"\n{len(results):,} calls, seed {options.seed}: "
        f"{sum(faults.values())} faults of {len(faults)} kinds"
    )
    for name in TARGETS:
        codes = Counter(r["code"] for r in results if r["target"] == name)
        if codes:
            slowest = max(r["seconds"] for r in results if r["target"] == name)
            most = max(r["memory"] for r in results if r["target"] == name)
            print(
                f"  {name:12} {sum(codes.values()):5}  exit codes {dict(codes)}, "
                f"{slowest:.1f} s, {most / 2**30:.2f} GB at most"
            )
    for kind, count in faults.most_common():
        print(f"  {count:4} x {kind}")
    return 1 if faults else 0


def report(result: dict[str, Any], worker: Worker, options: argparse.Namespace) -> None:
    """Print one fault, and keep its inputs."""
    lines = result["fault"].strip().splitlines()
    print(f"call {result['number']} ({result['target']}): {lines[-1][:160]}", flush=True)
    if options.keep:
        name = f"call-{result['number']}"
        source = next((p for p in worker.work.glob(f"*/{name}") if p.is_dir()), None)
        if source:
            shutil.copytree(source, options.keep / f"{result['target']}-{name}", dirs_exist_ok=True)
            (options.keep / f"{result['target']}-{name}" / "fault.txt").write_text(
                result["fault"], errors="replace"
            )


if __name__ == "__main__":
    sys.exit(main())
