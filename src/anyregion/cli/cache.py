"""The command `anyregion cache`: fills, verifies and repairs a store of frozen features."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyregion.cli.arguments import add_device_arguments, positive
from anyregion.cli.exit_codes import FAILED, FINE, SET_ASIDE

if TYPE_CHECKING:
    from anyregion.data.features import FeatureExtractor
    from anyregion.data.store.store import Store
    from anyregion.data.store.verify import Problem

ABOUT = """\
Run the same command again to go on after an interruption, and run it in several processes or on
several machines at once to be done sooner. A store remembers where its images lie and which models
made it: `anyregion cache --out STORE` goes on, with `--verify` it looks for damage, with
`--verify --repair` it computes anew what is damaged, missing or of a changed image."""
MODEL_KEYS = ("model", "localizer", "vlm", "features", "image_size", "antialias", "source")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = f"{parser.description}\n\n{ABOUT}"
    parser.add_argument(
        "--out", type=Path, required=True, metavar="STORE", help="the store's folder"
    )
    data = parser.add_argument_group("data (a store that is there knows its own)")
    data.add_argument(
        "--annotations", type=Path, metavar="FILE", help="COCO JSON, or what `data check` reads"
    )
    data.add_argument("--images", type=Path, metavar="DIR", help="the folder of the images")
    data.add_argument(
        "--masks", action="store_true", help="keep the annotations' masks in the store too"
    )
    group = parser.add_argument_group("frozen models")
    group.add_argument(
        "--model", metavar="NAME", help="compact (the default), or a folder of RegionSpot weights"
    )
    group.add_argument(
        "--localizer",
        metavar="NAME",
        help="SAM's hub name or folder: tokens; boxes:0.8,1,1.25:NAME, the mean token of these "
        "sizes of each box; crop:VLM, embeddings of crops",
    )
    group.add_argument(
        "--source",
        choices=["decoder", "prompt"],
        help="which token of the localizer: the mask decoder's output (default), or the mean of "
        "the prompt encoder's (the paper's ablation)",
    )
    group.add_argument("--vlm", metavar="NAME", help="CLIP's or SigLIP's, for --features")
    group.add_argument("--features", action="store_true", help="also the VLM's feature maps")
    group.add_argument(
        "--image-size", type=positive, metavar="N", help="side of the VLM's input, if not its own"
    )
    group.add_argument(
        "--no-antialias", action="store_true", help="resize for the VLM as published"
    )
    add_device_arguments(group)
    store = parser.add_argument_group("the store")
    store.add_argument("--no-mirror", action="store_true", help="leave out the mirror images")
    store.add_argument(
        "--images-per-shard",
        type=positive,
        metavar="N",
        help="what is lost by a kill, and is in memory until it is written "
        "(default: 64; 32 with feature maps)",
    )
    store.add_argument(
        "--batch-size", type=positive, default=4, metavar="N", help="images at once (default: 4)"
    )
    store.add_argument(
        "--workers", type=positive, default=2, metavar="N", help="threads that read images"
    )
    store.add_argument(
        "--verify", action="store_true", help="check every byte, and the images' files; no filling"
    )
    store.add_argument(
        "--repair", action="store_true", help="after --verify: compute anew what is wrong"
    )


def run(args: argparse.Namespace) -> int:
    """Fill the store, or verify it."""
    from anyregion.cli import terminal
    from anyregion.data.store.store import Store
    from anyregion.data.store.verify import discard
    from anyregion.errors import InputError

    store: Store | None = None
    if args.repair and not args.verify:
        raise InputError("--repair mends what --verify finds: give both")
    # without annotations the store that is there is meant, with the models that it notes
    if args.verify or args.annotations is None:
        if args.annotations is None and not (args.out / "store.json").is_file():
            raise InputError(f"{args.out}: no store there yet: give --annotations and --images")
        store = Store(args.out)
    images = _images(args, store)
    if args.verify and store is not None:
        problems = _verify(store, images)
        if not problems or not args.repair:
            return FAILED if problems else FINE
        terminal.note(f"shards to compute anew: {len(discard(store, problems))}")
    extractor = _extractor(args, store)
    if store is None:
        store = _create(args, extractor)
    # a store notes what its annotations lacked: going on counts it too
    return _fill(args, store, extractor, images)


def _images(args: argparse.Namespace, store: Store | None) -> Path:
    from anyregion.errors import InputError

    stated = None if store is None else store.info.notes.get("images")
    folder = args.images or (Path(stated) if isinstance(stated, str) else None)
    if folder is None:
        raise InputError("give the folder of the images with --images")
    return Path(folder)


def _extractor(args: argparse.Namespace, store: Store | None) -> FeatureExtractor:
    """The models that the command names, or, where it names none, those that the store notes."""
    from anyregion.factory import load_extractor

    models = {key: getattr(args, key, None) or None for key in MODEL_KEYS}
    models["antialias"] = False if args.no_antialias else None
    noted = None if store is None else store.info.notes.get("models")
    if isinstance(noted, dict) and not any(value is not None for value in models.values()):
        models = {key: noted.get(key) for key in MODEL_KEYS}
        models["dtype"] = noted.get("dtype", "float32")
    else:
        models["dtype"] = _dtype(args)
    models["features"] = bool(models["features"])
    options: dict[str, Any] = {**models, "device": args.device}
    return load_extractor(options.pop("model"), **options)


def _create(args: argparse.Namespace, extractor: FeatureExtractor) -> Store:
    from anyregion.cli import terminal
    from anyregion.data.annotations.reading import read_annotations
    from anyregion.data.annotations.report import Findings, skipped_items
    from anyregion.data.check import BAD_MASK, check_masks, check_unstated_sizes
    from anyregion.data.store.store import create_store
    from anyregion.errors import InputError

    annotations = read_annotations(args.annotations, masks=args.masks, images=args.images)
    findings = Findings(annotations.findings)
    if annotations.segmentations is not None:
        check_masks(annotations, annotations.sizes, findings)
    if args.images is not None:
        check_unstated_sizes(annotations, args.images, findings)
    wrong = [finding for finding in findings.list() if finding.wrong]
    terminal.warn_list("of the annotations set aside", skipped_items(wrong))
    for finding in wrong:
        if finding.what == BAD_MASK.what:
            terminal.note(f"warning: {finding.count:,} {finding.what}: {finding.advice}")
    if annotations.crowd.all():
        last = f" ({annotations.set_aside[-1]})" if annotations.set_aside else ""
        raise InputError(f"{args.annotations}: no region that can be used, so no features{last}")
    # in memory until it is written: maps are 0.3 to 3 MB an image, tokens 0.5 kB a region
    maps = args.features or args.localizer is None
    return create_store(
        args.out,
        annotations,
        extractor,
        mirrored=not args.no_mirror,
        images_per_shard=args.images_per_shard or (32 if maps else 64),
        notes={
            "annotations": str(args.annotations.resolve()),
            "images": str(args.images.resolve()) if args.images else None,
            "annotations_set_aside": sum(finding.count for finding in wrong),
            "models": {
                **{key: _resolve(getattr(args, key)) for key in MODEL_KEYS[:3]},
                "features": args.features,
                "image_size": args.image_size,
                "antialias": False if args.no_antialias else None,
                "dtype": _dtype(args),
                "source": args.source,
            },
        },
    )


def _dtype(args: argparse.Namespace) -> str:
    """The precision's name; `auto` as what it means here: a store has one wherever it goes on."""
    compact = args.localizer is None and args.vlm is None and args.model in (None, "compact")
    if args.dtype != "auto" or compact:
        return "float32" if args.dtype == "auto" else str(args.dtype)
    from anyregion.errors import require

    require("torch", "torch")
    from anyregion.torch_utils.devices import resolve_dtype

    return str(resolve_dtype(args.dtype, args.device)).removeprefix("torch.")


def _resolve(model: str | None) -> str | None:
    """A hub's name as it is; a file or folder by its whole path, to be loaded from anywhere."""
    # crop:PATH and boxes:SIZES:PATH
    kind, colon, path = (model or "").rpartition(":")
    if colon and Path(path).exists():
        return f"{kind}:{Path(path).resolve()}"
    if model is None or model == "compact" or not Path(model).exists():
        return model
    return str(Path(model).resolve())


def _verify(store: Store, images: Path) -> list[Problem]:
    from anyregion.cli import terminal
    from anyregion.data.store.verify import verify

    if not images.is_dir():
        terminal.note(f"warning: no folder {images}: the images' files were not checked")
    with terminal.progress() as track:
        problems = verify(
            store, images if images.is_dir() else None, progress=track("verifying", "shards")
        )
    # a file's name need not be text that can be printed
    for problem in problems:
        print(str(problem).encode(errors="backslashreplace").decode())
    with_problems = len({problem.shard for problem in problems})
    terminal.note(f"{len(store.shards)} shards, {with_problems} with problems")
    return problems


def _fill(args: argparse.Namespace, store: Store, extractor: FeatureExtractor, images: Path) -> int:
    from anyregion.cli import terminal
    from anyregion.data.store.build_store import fill_store
    from anyregion.errors import InputError

    with terminal.progress() as track:
        report = fill_store(
            store,
            extractor,
            images,
            batch_size=args.batch_size,
            workers=args.workers,
            progress=track("computing features", "images"),
        )
    terminal.warn_list("set aside", report.set_aside)
    if len(report.set_aside) == len(store):
        raise InputError(
            f"{store.folder}: no image that can be used, so no features ({report.set_aside[-1]})"
        )
    noted = store.info.notes.get("annotations_set_aside")
    of_annotations = noted if isinstance(noted, int) else 0
    set_aside = of_annotations + len(report.set_aside)
    detail = f" ({of_annotations:,} of the annotations)" if of_annotations else ""
    regions = store.info.regions
    rate = report.computed / report.seconds if report.computed else 0
    terminal.fields(
        [
            ("store", store.folder),
            ("features", "; ".join(store.info.extractor.values())),
            ("images", f"{len(store)}, {report.computed} computed now"),
            ("mirror images", "yes" if store.info.mirrored else "no"),
            ("regions", regions),
            ("size", f"{report.bytes / 1e6:.1f} MB in {len(store.shards)} shards"),
            ("bytes a region", f"{report.bytes / regions:.0f}" if regions else "no regions"),
            ("images a second", f"{rate:.2f}" if report.computed else "none computed"),
            ("set aside", f"{set_aside}{detail}"),
        ]
    )
    return SET_ASIDE if set_aside else FINE
