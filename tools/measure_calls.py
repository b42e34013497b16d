"""Counts the functions of the package that a question, a command and a training step go through.

Used by `measure_house.py`. How each line is counted:

functions: distinct functions of the package entered, in all threads, by a second call after a first
    that warmed up. Comprehensions, lambdas and generator expressions belong to the function around
    them; what dataclasses generate has no source and does not count.
recognize: `Recognizer.recognize` of one image file and one region, which is a box (compact) or a
    box with a mask (RegionSpot, random weights); the vocabulary is a list of the same names again.
command line: `anyregion recognize` of one image with `--regions FILE --no-pictures`, in this
    process; the files that these functions lie in, and how often the next one lies in another.
training step: what the task's `plan` and `load` and the loop's step (`STEP_NAMES`) enter, over the
    steps after the first two, without what reading one image of the feature store takes. So
    validation, checkpoints, logs and the loop's own bookkeeping are left out.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from types import CodeType
from typing import Any

PACKAGE = "anyregion"
# the optimiser step of the training loop, in a file of `training/`
STEP_NAMES = {"Stepper.take", "Stepper.step", "take_step", "train_step"}
# reading one image of the feature store: a method or function of this name in a file of `data/`
STORE_READ = "read"
NAMES = ["cup", "pen", "key"]
CLIP = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2,
}  # fmt: skip
R2O = {
    "r2o.backbone": "timm/test_resnet", "r2o.views.size": 64, "r2o.prior.segments": 12,
    "r2o.curriculum.values": "[8, 2]", "r2o.batch": 4, "r2o.epochs": 4, "r2o.warmup_epochs": 0.5,
    "r2o.heads.hidden": 32, "r2o.heads.out": 16, "r2o.workers": 1, "optimizer.lr": 1e-3,
}  # fmt: skip


class Profile:
    """The package's functions that are entered, in every thread.

    Attributes:
        calls: as they are entered.
        inside: by `part`, what is entered within a call that `part_of` names, call by call.
    """

    def __init__(self, root: Path, part_of: Callable[[CodeType], str | None]) -> None:
        self.prefix, self.part_of = f"{(root / 'src' / PACKAGE).resolve()}{os.sep}", part_of
        self.calls: list[CodeType] = []
        self.inside: dict[str, list[set[CodeType]]] = defaultdict(list)
        self._open = threading.local()

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(self.prefix):
            return
        parts = self._open.__dict__.setdefault("parts", [])
        if event == "return":
            if parts and parts[-1][0] is frame:
                _, name, functions = parts.pop()
                self.inside[name].append(functions)
        elif not code.co_name.startswith("<"):
            self.calls.append(code)
            if name := self.part_of(code):
                parts.append((frame, name, set()))
            hidden = any(name == "hidden" for _, name, _ in parts)
            for _, name, functions in parts:
                if not hidden or name == "hidden":
                    functions.add(code)


@contextmanager
def profiled(
    root: Path, part_of: Callable[[CodeType], str | None] = lambda _: None
) -> Iterator[Profile]:
    profile = Profile(root, part_of)
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield profile
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def show(functions: set[CodeType], title: str, details: bool) -> int:
    if details:
        print(f"\n{title}:")
        for code in sorted(functions, key=lambda c: (c.co_filename, c.co_firstlineno)):
            print(f"  {code.co_filename.rpartition(f'{PACKAGE}{os.sep}')[2]} {code.co_qualname}")
    return len(functions)


def command(*words: object) -> None:
    """Run `anyregion` here."""
    from anyregion.cli.main import main

    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = main([str(word) for word in words])
    if code:
        raise RuntimeError(f"anyregion {words[0]}: {printed.getvalue().strip().splitlines()[-1]}")


def write_photos(root: Path, count: int = 6) -> list[str]:
    """Small images with annotated boxes; the options that name them."""
    import numpy as np
    from PIL import Image

    draw, images, regions = np.random.default_rng(0), [], []
    (root / "images").mkdir()
    for i in range(count):
        coarse = Image.fromarray(draw.integers(255, size=(6, 8, 3), dtype=np.uint8))
        coarse.resize((64, 48), Image.Resampling.NEAREST).save(root / "images" / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 64, "height": 48})
        for j in range(i % 3 + 1):
            entry = {"image_id": i + 1, "category_id": 1 + (i + j) % 3, "area": 300, "iscrowd": 0}
            box = [5 * j + 2, 4 * j + 1, 20 + i, 15]
            regions.append({"id": len(regions) + 1, "bbox": box, **entry})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    content = {"images": images, "annotations": regions, "categories": categories}
    (root / "regions.json").write_text(json.dumps(content))
    return ["--annotations", str(root / "regions.json"), "--images", str(root / "images")]


def write_random_models(root: Path) -> list[str]:
    """A small SAM and a small CLIP as folders; the options that name them."""
    import open_clip
    import transformers as t

    sam = {"hidden_size": 32, "image_size": 64, "patch_size": 8}
    vision = {**sam, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"window_size": 3, "global_attn_indexes": [1], "output_channels": 32}
    decoder = {"hidden_size": 32, "mlp_dim": 48, "iou_head_hidden_dim": 40}
    vision["num_pos_feats"] = 16
    config = t.SamConfig(
        vision_config=vision, prompt_encoder_config=sam, mask_decoder_config=decoder
    )
    t.SamModel(config).save_pretrained(root / "sam")
    eyes, words = {"image_size": 32, "patch_size": 8}, {"vocab_size": 49408, "eos_token_id": 2}
    clip = t.CLIPConfig(vision_config=CLIP | eyes, text_config=CLIP | words, projection_dim=40)
    t.CLIPModel(clip).save_pretrained(root / "clip")
    bpe = open_clip.SimpleTokenizer()
    codes = dict(bpe.encoder)
    codes["<|startoftext|>"] = codes.pop("<start_of_text>")
    codes["<|endoftext|>"] = codes.pop("<end_of_text>")
    t.CLIPTokenizer(vocab=codes, merges=list(bpe.bpe_ranks)).save_pretrained(root / "clip")
    return ["--localizer", str(root / "sam"), "--vlm", str(root / "clip")]


def recognize_functions(root: Path, model: str, image: Path, region: Any) -> set[CodeType]:
    from anyregion import load_recognizer

    recognizer = load_recognizer(model, cache=None)
    recognizer.recognize([image], [region], NAMES)
    with profiled(root) as profile:
        recognizer.recognize([image], [region], NAMES)
    return set(profile.calls)


def step_functions(root: Path, *words: object, store: bool = True) -> set[CodeType]:
    """What one step of the training that `words` start enters."""

    def part_of(code: CodeType) -> str | None:
        rooms = Path(code.co_filename).relative_to(root.resolve()).parts
        if store and code.co_name == STORE_READ and "data" in rooms:
            return "hidden"
        if "training" not in rooms and "compact_training" not in rooms:
            return None
        if code.co_qualname in STEP_NAMES:
            return "step"
        return code.co_name if code.co_name in ("plan", "load") else None

    with profiled(root, part_of) as profile:
        command(*words)
    if missing := {"plan", "load", "step"} - profile.inside.keys():
        raise RuntimeError(f"no call of {', '.join(missing)} was seen: mend STEP_NAMES")
    parts = (profile.inside[name][2:] for name in ("plan", "load", "step"))
    return {code for calls in parts for functions in calls for code in functions}


def measure_calls(root: Path, *, details: bool) -> Iterator[tuple[str, int | str, int | None]]:
    """Name, value and limit of each line; where a part fails, the reason stands for the value."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    sys.path.insert(0, str(root.resolve() / "src"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ANYREGION_CACHE"] = f"{folder}/cache"
        for names, limits, part in parts_of(root, Path(folder), details):
            try:
                yield from zip(names, part(), limits, strict=True)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}".split("\n")[0]
                yield from (
                    (name, reason, limit) for name, limit in zip(names, limits, strict=True)
                )


Part = tuple[tuple[str, ...], tuple[int | None, ...], Callable[[], list[int]]]


def parts_of(root: Path, place: Path, details: bool) -> Iterator[Part]:
    from anyregion import Regions

    data = write_photos(place)
    image, box = place / "images/1.png", [[2, 1, 22, 16]]
    loop = ["--steps", 8, "--log_every", 1000, "--tensorboard", "false", "--readers", 1]

    def compact() -> list[int]:
        functions = recognize_functions(root, "compact", image, Regions.from_boxes(box))
        return [show(functions, "Recognizer.recognize, compact", details)]

    def regionspot() -> list[int]:
        import numpy as np

        models = write_random_models(place)
        command("cache", *data, *models, "--features", "--out", place / "features")
        adapter = {"token_width": 32, "feature_width": 48, "embed_width": 40, "layers": 1}
        own = {"localizer": models[1], "vlm": models[3], "batch": 3, "adapter": adapter}
        own |= {"data": [{"store": str(place / "features")}], "templates": ["a {}."]}
        settings = {"task": "regionspot", "optimizer": {"lr": 0.001}, "regionspot": own}
        (place / "regionspot.yaml").write_text(json.dumps(settings))  # which is YAML
        out = place / "regionspot"
        step = step_functions(root, "train", place / "regionspot.yaml", *loop, "--out", out)
        mask = np.zeros((48, 64), dtype=bool)
        mask[1:16, 2:22] = True
        region = Regions.from_prompts(boxes=box, masks=[mask])
        functions = recognize_functions(root, str(out / "model"), image, region)
        return [
            show(functions, "Recognizer.recognize, RegionSpot", details),
            show(step, "training step, RegionSpot", details),
        ]

    def command_line() -> list[int]:
        words = ["recognize", image, "--vocabulary", ",".join(NAMES), "--no-pictures"]
        words += ["--regions", place / "regions.json", "--overwrite", "--out", place / "results"]
        command(*words)
        with profiled(root) as profile:
            command(*words)
        files = [code.co_filename for code in profile.calls]
        changes = sum(a != b for a, b in pairwise(files))
        functions = show(set(profile.calls), "anyregion recognize", details)
        return [functions, len(set(files)), changes]

    def compact_step() -> list[int]:
        command("cache", *data, "--out", place / "maps")
        store = place / "maps"
        own = ["--compact.stores", json.dumps([str(store)]), "--compact.validation", store]
        own += ["--compact.batch", 3, "--out", place / "compact"]
        return [show(step_functions(root, "train", "compact", *own, *loop), "compact", details)]

    def r2o_step() -> list[int]:
        own = [f"--{name}={value}" for name, value in R2O.items()]
        words = ["pretrain", place / "images", "--out", place / "r2o", *own, *loop[2:]]
        return [show(step_functions(root, *words, store=False), "R2O", details)]

    yield ("functions of recognize, compact",), (25,), compact
    yield (
        ("functions of recognize, RegionSpot", "functions of a training step, RegionSpot"),
        (45, 34),
        regionspot,
    )
    yield (
        ("functions of the command recognize", "  files of these", "  changes of file"),
        (90, 25, None),
        command_line,
    )
    yield ("functions of a training step, compact",), (35,), compact_step
    yield ("functions of a training step, R2O",), (80,), r2o_step
