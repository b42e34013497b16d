"""What a training step of R2O is made of, and what it costs beside a step of BYOL.

    python benchmarks/r2o_step.py --shared ../shared [--images 8] [--rounds 2] [--no-small]

The trainer's own step, each part of it under a clock, on COCO's photographs: ResNet-50, views of
224, 100 SLIC segments asked for, LARS, fp32. K = 128, K = 4, scope image, and BYOL (one mask an
image) take steps of the same networks in turn, so that a busy machine slows all alike: CPU seconds
in one thread, means of the rounds. Then the same in the threads that torch takes by itself, in CPU
and wall seconds, and the two-core preset with its first K (ResNet-18, 128 images of 96, bf16,
channels-last).

The bar: what R2O adds to the networks' passes (clustering without the target's own pass, mask
alignment, pooling, one-hot maps, running mean, losses, figures, and whatever else is not named)
stays under 10 % of a step, loading left out of both: it goes on in threads of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from anyregion.images import find_images
from anyregion.r2o import method, refinement
from anyregion.r2o.method import R2O
from anyregion.r2o.training import task as r2o_task
from anyregion.r2o.training.build import build
from anyregion.r2o.training.task import R2OTask
from anyregion.recipes.loading import Training, read_training
from anyregion.training.distributed import start
from anyregion.training.optimizers import build_optimizer
from anyregion.training.prefetch import StepExamples
from anyregion.training.step import Stepper

BAR = 0.10
LOAD = "load: decode, views, cached maps"
ADDED = (  # what the bar is about
    "clustering: segments pooled",
    "clustering: k-means",
    "one-hot maps of the regions",
    "masks aligned to the views",
    "features pooled under masks",
    "target follows (running mean)",
    "losses, figures, everything else",
)
REST = ADDED[-1]
OTHERS = (
    "images to tensors",
    "target's pass for clustering",
    "online encoder, forward",
    "online heads, forward",
    "target encoder, forward",
    "target head, forward",
    "backward",
    "gradient norm",
    "optimiser",
)
FIXED = {"curriculum.kind": "constant"}
VARIANTS: dict[str, dict[str, str]] = {
    "K = 128": {**FIXED, "curriculum.values": "[128]"},
    "K = 64": {**FIXED, "curriculum.values": "[64]"},
    "K = 4": {**FIXED, "curriculum.values": "[4]"},
    "K = 128, image": {**FIXED, "curriculum.values": "[128]", "method.scope": "image"},
    "BYOL": {**FIXED, "curriculum.values": "[9999]", "prior.kind": "whole"},
}
LARGE, SMALL = ("K = 128", "K = 4", "K = 128, image", "BYOL"), ("K = 64", "K = 4", "BYOL")
Seconds = dict[str, tuple[float, float]]  # of each part: CPU, wall


class Clock:
    """Own time of each part: what runs inside another part is not counted there."""

    def __init__(self) -> None:
        self._spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._open: list[str] = []
        self._since = _now()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """From now on, `owner.attribute(...)` is the part `name`."""
        within: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **named: Any) -> Any:
            with self.part(name):
                return within(*args, **named)

        setattr(owner, attribute, timed)

    def take(self) -> Seconds:
        """What was spent since the last time."""
        spent = {name: (cpu, wall) for name, (cpu, wall) in self._spent.items()}
        self._spent.clear()
        return spent

    def _turn(self) -> None:
        now = _now()
        if self._open:
            spent = self._spent[self._open[-1]]
            spent[0] += now[0] - self._since[0]
            spent[1] += now[1] - self._since[1]
        self._since = now


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


class Bench:
    """Steps of several settings of R2O, of the same networks with the same optimiser."""

    def __init__(self, trainings: dict[str, Training], clock: Clock) -> None:
        self.clock = clock
        first = next(iter(trainings.values()))
        task = _built(first)
        networks = task.r2o.networks
        fabric, scaler = start(first.loop)
        loop = task.on_fit_start(first.loop)
        optimizer: Any = fabric.setup_optimizers(build_optimizer(task.module, loop.optimizer))
        self.steppers: dict[str, Stepper] = {}
        for name, training in trainings.items():
            # label maps of its own prior; the networks are the first one's
            own = task if training is first else _built(training)
            own = R2OTask(
                R2O(networks, training.settings.method), own.store, training.settings,
                loop=training.loop,
            )  # fmt: skip
            module: Any = fabric.setup_module(own.module.train())
            self.steppers[name] = Stepper(fabric, own, module, optimizer, scaler, None, loop)
            clock.watch(self.steppers[name], "_clip_grad", "gradient norm")
        clock.watch(fabric, "backward", "backward")
        clock.watch(optimizer, "step", "optimiser")
        clock.watch(networks, "update_target", "target follows (running mean)")
        clock.watch(networks.online.encoder, "forward", "online encoder, forward")
        clock.watch(networks.online.projector, "forward", "online heads, forward")
        clock.watch(networks.predictor, "forward", "online heads, forward")
        clock.watch(networks.target.encoder, "forward", "target encoder, forward")
        clock.watch(networks.target.encoder, "intermediate", "target's pass for clustering")
        clock.watch(networks.target.projector, "forward", "target head, forward")

    def step(self, name: str, number: int) -> Seconds:
        """Load and take one step."""
        stepper = self.steppers[name]
        with self.clock.part(LOAD):
            items = stepper.task.plan(number)
            examples = [stepper.task.load(item) for item in items]
        with self.clock.part(REST):
            stepper.step(StepExamples(number, items, range(len(items)), examples))
        return self.clock.take()

    def rounds(self, count: int, names: Sequence[str] | None = None) -> dict[str, Seconds]:
        """The mean of each part, after one step that is not counted."""
        chosen = list(names or self.steppers)
        self.step(chosen[0], 0)
        taken: dict[str, list[Seconds]] = {name: [] for name in chosen}
        for number in range(1, count + 1):
            for name in chosen:
                taken[name].append(self.step(name, number))
        return {name: _mean(rows) for name, rows in taken.items()}


def _built(training: Training) -> R2OTask:
    return build(training.settings, loop=training.loop)


def _mean(rows: Sequence[Seconds]) -> Seconds:
    parts = dict.fromkeys(part for one in rows for part in one)
    zero = (0.0, 0.0)
    return {
        part: (
            sum(one.get(part, zero)[0] for one in rows) / len(rows),
            sum(one.get(part, zero)[1] for one in rows) / len(rows),
        )
        for part in parts
    }


def trainings(
    recipe: str, images: Path, cache: Path, variants: Sequence[str], **settings: str
) -> dict[str, Training]:
    """A recipe's settings with those of each variant."""
    common = {"images": f"['{images}']", "cache": str(cache), "shown": "0", **settings}
    trainings_of = {}
    for name in variants:
        settings = common | VARIANTS[name]
        words = [f"--r2o.{key}={value}" for key, value in settings.items()]
        read = read_training(recipe, words, task="r2o")
        # a run of its own length is not what is measured
        trainings_of[name] = replace(read, loop=replace(read.loop, precision=_precision(recipe)))
    return trainings_of


def _precision(recipe: str) -> Any:
    return "bf16" if recipe == "r2o-small" else "fp32"


def table(columns: dict[str, Seconds], *, of: int = 0) -> None:
    """Print CPU (`of` 0) or wall (1) seconds, then what the bar and the ratio are."""
    print(f"  {'':36}" + "".join(f"{name:>16}" for name in columns))

    def row(name: str, values: Sequence[float], form: str = "{:.3f}") -> None:
        print(f"  {name:36}" + "".join(f"{form.format(value):>16}" for value in values))

    for part in (LOAD, *OTHERS, *ADDED):
        row(part, [seconds.get(part, (0.0, 0.0))[of] for seconds in columns.values()])
    steps = [step_seconds(seconds, of) for seconds in columns.values()]
    row("the step, without load", steps)
    row("added by R2O", [added(seconds, of) for seconds in columns.values()])
    row(
        f"  of the step (bar: {BAR:.0%})",
        [added(seconds, of) / step for seconds, step in zip(columns.values(), steps, strict=True)],
        "{:.2%}",
    )
    if "BYOL" in columns:
        base = step_seconds(columns["BYOL"], of)
        row("times a step of BYOL", [step / base for step in steps], "{:.3f}")


def step_seconds(seconds: Seconds, of: int) -> float:
    """A step without its loading."""
    return sum(both[of] for part, both in seconds.items() if part != LOAD)


def added(seconds: Seconds, of: int) -> float:
    """What the bar is about."""
    return sum(seconds.get(part, (0.0, 0.0))[of] for part in ADDED)


def links(images: Sequence[Path], folder: Path) -> Path:
    """A folder of links to `images`."""
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number:04d}{image.suffix}").symlink_to(image.resolve())
    return folder


def spread_over(folder: Path, count: int) -> list[Path]:
    """`count` images from all over a folder."""
    paths, _ = find_images([folder])
    return paths[:: max(1, len(paths) // count)][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/")
    parser.add_argument("--images", type=int, default=8, help="in a step of ResNet-50")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-small", action="store_true", help="leave out the two-core preset")
    parser.add_argument("--only-small", action="store_true", help="the two-core preset alone")
    args = parser.parse_args()
    threads = torch.get_num_threads()
    clock = Clock()
    clock.watch(refinement, "segment_features", "clustering: segments pooled")
    clock.watch(refinement, "cluster_segments", "clustering: k-means")
    clock.watch(refinement, "region_masks", "one-hot maps of the regions")
    clock.watch(method, "align_masks", "masks aligned to the views")
    clock.watch(r2o_task, "normalize", "images to tensors")
    clock.watch(method, "_mask_features", "features pooled under masks")
    data = args.shared / "data"
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if not args.only_small:
            photos = links(spread_over(data / "coco", args.images), work / "coco")
            bench = Bench(
                trainings(
                    "r2o-resnet50-imagenet300", photos, work / "maps", LARGE,
                    batch=str(args.images), channels_last="false",
                ),
                clock,
            )  # fmt: skip
            torch.set_num_threads(1)
            print(f"ResNet-50, {args.images} images of 224, one thread, CPU seconds a step")
            table(bench.rounds(args.rounds))
            torch.set_num_threads(threads)
            columns = bench.rounds(1, ["K = 128", "BYOL"])
            for of, kind in enumerate(("CPU", "wall")):
                print(f"the same, {threads} threads, {kind} seconds a step")
                table(columns, of=of)
            del bench
        if args.no_small:
            return
        photos = links(spread_over(data / "unlabelled", 16), work / "small")
        bench = Bench(trainings("r2o-small", photos, work / "maps", SMALL), clock)
        torch.set_num_threads(1)
        print("r2o-small: ResNet-18, 16 images of 96, bf16, one thread, CPU seconds a step")
        table(bench.rounds(4))


if __name__ == "__main__":
    main()
