"""`index_images`: embeds the regions of many images once, and goes on where it was stopped."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from anyregion import factory
from anyregion.data.store.locks import try_lock
from anyregion.errors import InputError, SetAside
from anyregion.files import atomic_path, to_line, writing
from anyregion.index.build import IndexModel, IndexOptions
from anyregion.index.engines import EngineOptions, open_engine
from anyregion.index.manifest import (
    LABELS,
    LOCK,
    MANIFEST,
    PLAN,
    QUARANTINE,
    SHARDS,
    IndexManifest,
    shard_paths,
)
from anyregion.index.plan import plan_samples, write_plan
from anyregion.index.shards import ShardLayout, ShardPaths, read_images
from anyregion.index.sources import list_images
from anyregion.io.regions import load_regions
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.runs.pipeline import ProposedRegions, RegionSource, SameRegions, Track, silent
from anyregion.runs.processes import LOOK
from anyregion.runs.run_file import changes_of

# paths that are stated in the manifest one by one
_PATHS_STATED = 20


@dataclass(frozen=True)
class IndexReport:
    """What `index_images` did.

    Attributes:
        out: the folder of the index.
        images: in it, without those in quarantine.
        regions: in it.
        computed: images that this call embedded.
        seconds: time spent on them, without loading the model.
        set_aside: what of the call's paths and regions cannot be used, and why.
        quarantined: how many images cannot be used (`quarantine.jsonl`).
        warnings: what was assumed about the input.
    """

    out: Path
    images: int
    regions: int
    computed: int
    seconds: float
    set_aside: tuple[SetAside, ...]
    quarantined: int
    warnings: tuple[str, ...]


def index_images(
    paths: str | Path | Sequence[str | Path],
    regions: Regions | RegionSource | str | Path = "auto",
    *,
    out: str | Path,
    recognizer: str | Path | Callable[[], Recognizer] = "compact",
    model: Mapping[str, Any] | None = None,
    options: IndexOptions | None = None,
    engine: EngineOptions | None = None,
    overwrite: bool = False,
    retry: bool = False,
    track: Track = silent,
) -> IndexReport:
    """Embed the regions of many images, and store all that names, searches and scores need.

    The plan (which images, which regions) is made once: a later call goes on with it, whatever has
    come to the folders since. A shard that is whole and of the same model and settings is not
    computed again. An image that cannot be used is put into quarantine, with the reason.

    Args:
        paths: see `sources.list_images`.
        regions: as for `recognize_images`.
        out: the folder of the index.
        recognizer: a model's name or folder, or what loads one: for several workers something that
            can be pickled.
        model: where `recognizer` is a call, the arguments of `load_recognizer` that make the same
            model, so that `name` can load it by itself; `device` is no part of them.
        options: what is stored of each region.
        engine: where the work is done.
        overwrite: begin anew where there is an index already.
        retry: embed shards with images in quarantine again.
        track: shows how far the work is.

    Raises:
        InputError: no image at all, another index in `out`, wrong arguments.
        AnyRegionError: the folder cannot be written, or workers died again and again.
        MissingExtraError: pyarrow, fsspec or Ray are not installed.
    """
    out, options, engine = Path(out), options or IndexOptions(), engine or EngineOptions()
    source: RegionSource
    if isinstance(regions, Regions):
        source = SameRegions(regions)
    elif isinstance(regions, (str, Path)):
        source = (
            ProposedRegions()
            if regions == "auto"
            else load_regions(regions, masks=options.use_masks)
        )
    else:
        source = regions
    if isinstance(recognizer, (str, Path)):
        model = {"model": str(recognizer)}
        recognizer = partial(factory.load_recognizer, str(recognizer))
    elif isinstance(recognizer, Recognizer):
        raise InputError("give what loads the recogniser, or its name: every worker has its own")
    listed = [paths] if isinstance(paths, (str, Path)) else list(paths)
    settings = {
        "paths": _describe_paths(listed),
        "regions": source.digest,
        "model": None if model is None else {k: v for k, v in model.items() if v is not None},
        "masks": options.masks,
        "features": options.features,
        "use_masks": options.use_masks,
        "shard_images": options.shard_images,
    }
    set_aside = list(source.set_aside)
    if overwrite:
        _remove(out)
    manifest = IndexManifest.load(out) if (out / MANIFEST).is_file() else None
    if manifest is not None:
        earlier = {"settings": manifest.settings, "root": manifest.root}
        changes = changes_of(earlier, {"settings": settings, "root": manifest.root})
        if changes:
            raise InputError(
                f"{out}: holds an index with other settings ({'; '.join(changes)}); use "
                "--overwrite to begin anew there, or another --out"
            )
        if retry:
            _forget_quarantined(out, manifest)
    proposed = source if isinstance(source, ProposedRegions) else None
    said: list[str] = []
    started, computed = time.perf_counter(), 0
    todo = None if manifest is None else _missing(out, manifest)
    # whole already: no model is loaded to say so
    if todo is None or todo:
        with open_engine(IndexModel(recognizer, proposed, options), engine) as working:
            models, layout = working.describe()
            if manifest is None:
                with _alone(out):
                    manifest = _plan(
                        listed, source, out, settings, options, models, layout, set_aside
                    )
            elif (dict(manifest.models), manifest.layout) != (models, layout):
                raise InputError(
                    f"{out}: was begun by other weights ({manifest.models}, now {models}); use "
                    "--overwrite to begin anew there, or another --out"
                )
            todo = _missing(out, manifest)
            progress = track("embedding regions", "images")
            shard_images = options.images_of_shard(manifest.images)
            total = min(len(todo) * shard_images, manifest.images)
            done = 0

            def count(images: int) -> None:
                nonlocal done
                # of a shard whose worker died images are counted again
                done = min(done + images, total)
                progress(done, total)

            progress(0, total)
            started = time.perf_counter()
            try:
                for report in working.build(out, todo, count):
                    computed += report.images
                    said += report.warnings
            finally:
                with suppress(InputError), _alone(out):
                    _write_quarantine(out, manifest)
    assert manifest is not None
    seconds = time.perf_counter() - started
    with _alone(out):
        usable, in_index, quarantined = _write_quarantine(out, manifest)
        _remove_leftovers(out)
    return IndexReport(
        out, usable, in_index, computed, seconds, tuple(set_aside), quarantined,
        tuple(dict.fromkeys(said)),
    )  # fmt: skip


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """While one command at a time writes what is not a shard's."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    while True:
        with try_lock(out / LOCK) as locked:
            if locked:
                yield
                return
        time.sleep(LOOK)


def _remove_leftovers(out: Path) -> None:
    """Remove what killed processes began and nobody goes on with; for who is alone."""
    for path in (out / MANIFEST, out / PLAN, out / QUARANTINE):
        for leftover in out.glob(f".{path.stem}-*{path.suffix}"):
            leftover.unlink(missing_ok=True)
    # killed between the last move of a shard and the end of its lock
    for path in (out / SHARDS).glob("*.lock"):
        with try_lock(path) as locked:
            if locked:
                ShardPaths(path.parent, int(path.stem)).remove_leftovers()


def _describe_paths(paths: Sequence[str | Path]) -> list[str]:
    """The paths; of very many, which a shell's glob may give, some and a hash of all."""
    texts = [str(path) for path in paths]
    if len(texts) <= _PATHS_STATED:
        return texts
    digest = hashlib.sha256(repr(texts).encode(errors="surrogatepass")).hexdigest()
    return [*texts[:_PATHS_STATED], f"and others, {len(texts)} in all: sha256:{digest}"]


def _plan(
    paths: Sequence[str | Path],
    source: RegionSource,
    out: Path,
    settings: Mapping[str, Any],
    options: IndexOptions,
    models: Mapping[str, str],
    layout: ShardLayout,
    set_aside: list[SetAside],
) -> IndexManifest:
    """List the images, and write the plan and the manifest."""
    from anyregion import __version__

    root, images, missing = list_images(paths)
    set_aside += missing
    if not images:
        more = f"; and {len(set_aside) - 5} more" if len(set_aside) > 5 else ""
        raise InputError("; ".join(map(str, set_aside[:5])) + more or "no images given")
    shard_images = options.images_of_shard(len(images))
    write_plan(out / PLAN, plan_samples(images, source, root), shard_images)
    manifest = IndexManifest(
        version=__version__,
        root=str(root),
        settings=settings,
        model=settings["model"],
        models=models,
        layout=layout,
        images=len(images),
        shards=-(-len(images) // shard_images),
        bytes=sum(max(image.bytes, 0) for image in images),
        plan=hashlib.sha256((out / PLAN).read_bytes()).hexdigest(),
    )
    with writing(out / SHARDS):
        (out / SHARDS).mkdir(exist_ok=True)
    # last: without it there is no index, and the plan is made again
    manifest.save(out)
    return manifest


def _missing(out: Path, manifest: IndexManifest) -> list[int]:
    """Shards that have to be computed."""
    fingerprint = manifest.fingerprint
    return [n for n in range(manifest.shards) if not shard_paths(out, n).is_whole(fingerprint)]


def _write_quarantine(out: Path, manifest: IndexManifest) -> tuple[int, int, int]:
    """Write `quarantine.jsonl` of whole shards; how many images, regions, and not usable images."""
    images = regions = quarantined = 0
    path = out / QUARANTINE
    with writing(path), atomic_path(path) as temporary, temporary.open("wb") as file:
        for number in range(manifest.shards):
            paths = shard_paths(out, number)
            if not paths.is_whole(manifest.fingerprint):
                continue
            for image in read_images(paths):
                images += image.quarantined is None
                regions += image.regions
                if image.quarantined is not None:
                    quarantined += 1
                    place = image.image
                    content = {"image": place.name, "location": place.location}
                    file.write(to_line({**content, "reason": image.quarantined}))
    return images, regions, quarantined


def _forget_quarantined(out: Path, manifest: IndexManifest) -> None:
    """Remove shards with images that could not be used."""
    for number in range(manifest.shards):
        paths = shard_paths(out, number)
        if paths.is_whole(manifest.fingerprint) and any(
            image.quarantined for image in read_images(paths)
        ):
            with writing(paths.regions):
                paths.regions.unlink()


def _remove(out: Path) -> None:
    """Remove what makes an index of a folder, and nothing else."""
    with writing(out):
        (out / MANIFEST).unlink(missing_ok=True)
        for path in (out / PLAN, out / QUARANTINE, *(out / SHARDS).glob("*.parquet")):
            path.unlink(missing_ok=True)
        for path in (out / LABELS).glob("*/*"):
            path.unlink(missing_ok=True)
