"""A run over many images: read, name, draw and write, and continue where a run stopped."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyregion.errors import InputError, SetAside
from anyregion.exemplars import ExemplarVocabulary
from anyregion.images import Pixels
from anyregion.predictions import Predictions
from anyregion.proposals import RegionProposer
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.runs.export import write_coco, write_csv
from anyregion.runs.journal import file_mark
from anyregion.runs.named_images import name_images
from anyregion.runs.reading import read_ahead
from anyregion.runs.region_source import Asked, RegionSource
from anyregion.runs.results_folder import ResultsFolder, known_root
from anyregion.scoring import Score
from anyregion.vocabulary import EncodedVocabulary, Progress, Vocabulary


@dataclass(frozen=True)
class BatchReport:
    """What a run did.

    Attributes:
        out: its folder.
        images: images named by this run.
        kept: images that an earlier run had finished.
        regions: rows in the results, over all images.
        seconds: time spent on the images, without loading the model.
        set_aside: images and regions left out, and why.
        unreadable: names that the text model has no pieces for.
        only: the journal's line where the folder holds one image, else None.
    """

    out: Path
    images: int
    kept: int
    regions: int
    seconds: float
    set_aside: tuple[SetAside, ...]
    unreadable: tuple[str, ...]
    only: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class _Item:
    name: str
    pixels: Pixels
    regions: Regions
    image_id: int | None
    file: dict[str, int] | None
    set_aside: list[SetAside]


def recognize_images(
    paths: Sequence[str | Path],
    vocabulary: Vocabulary | EncodedVocabulary | ExemplarVocabulary,
    regions: RegionSource,
    load: Callable[[], Recognizer],
    *,
    out: Path,
    settings: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    top_k: int = 5,
    score: Score | None = None,
    min_score: float = 0.0,
    masks: bool = False,
    multimask: bool = False,
    pictures: bool = True,
    csv: bool = False,
    batch_size: int = 4,
    progress: Progress | None = None,
    encoding: Progress | None = None,
) -> BatchReport:
    """Name the regions of many images and write the results folder (see `ResultsFolder`).

    Images that an earlier run finished are not read again, unless their file has changed since (in
    size or time of change); if all are finished, no model is loaded. What
    cannot be used (an image, a region) is set aside and the rest goes on. An interrupted run,
    even a killed one, leaves finished images intact; calling again continues it.

    Args:
        paths: files, folders and globs. Images are named by their path from the folder that holds
            all of `paths`; that is the `file_name` in the results.
        vocabulary: the names to choose from.
        regions: the regions of each image.
        load: called once, if there is anything to do.
        out: the folder; its own pictures are never taken as input.
        settings: of the model, for `run.json`; a run with other settings may not continue.
        about: what else to state in `run.json`.
        overwrite: start anew.
        top_k, score, masks, multimask: as for `Recognizer.recognize`.
        min_score: rows whose best score is below are left out of results and pictures.
        pictures: draw a picture of each image.
        csv: also write `predictions.csv`.
        batch_size: images at once.
        progress: called with (done, total) images of this run.
        encoding: called with (done, total) names, or pictures, while the vocabulary is encoded.

    Raises:
        InputError: no image at all, other settings than the run in `out`, wrong arguments.
        AnyRegionError: the folder cannot be written.
    """
    if batch_size < 1 or top_k < 1:
        raise InputError("batch size and top_k must be at least 1")
    if not 0 <= min_score <= 1:
        raise InputError(f"min_score must lie between 0 and 1; it is {min_score}")
    root, images, aside = name_images(
        paths, drawn=out / "pictures", earlier=None if overwrite else known_root(out)
    )
    if not images:
        raise InputError("; ".join(map(str, aside)) or "no images given")
    fixed = {
        **(settings or {}),
        "top_k": top_k,
        "score": score or "the model's own",
        "min_score": min_score,
        "masks": masks,
        "multimask": multimask,
        "pictures": pictures,
        "vocabulary": _digest(vocabulary),
        "regions": regions.digest,
    }
    with ResultsFolder(out, settings=fixed, root=root, overwrite=overwrite, about=about) as folder:
        marks = {name: file_mark(path) for name, path in images.items()}
        finished = folder.journal.entries
        # their answers go once it is sure that there will be new ones
        stale = [n for n in images if n in finished and finished[n].file != marks[n]]
        kept = (set(images) & set(finished)) - set(stale)
        earlier = [
            SetAside(f"{name}, {a['item']}", a["reason"])
            for name in sorted(kept)
            for a in finished[name].set_aside
        ]
        aside += regions.set_aside
        refused: dict[str, str] = {}
        pending: dict[str, tuple[Path, Asked]] = {}
        assigned = regions.assign(list(images.values()))
        for name, path in images.items():
            asked = assigned[path]
            if name not in kept:
                if isinstance(asked, Asked):
                    pending[name] = (path, asked)
                else:
                    refused[name] = asked
        started = time.perf_counter()
        unreadable: tuple[str, ...] = ()
        proposer: RegionProposer | None = None
        if pending:
            recognizer = load()
            words = recognizer.encode_vocabulary(vocabulary, progress=encoding)
            unreadable = words.unreadable
            models = {"words": words.model, "encoder": recognizer.encoder.fingerprint}
            if regions.load_proposer is not None:
                proposer = regions.load_proposer(recognizer)
                models["proposer"] = proposer.fingerprint
            folder.pin(models, stale=stale)
            folder.begin()
            started = time.perf_counter()
        else:
            folder.drop(stale)
        folder.skip(aside)
        for name, reason in refused.items():
            aside += _skip_image(folder, name, reason)
        if pending:

            def ask(items: list[_Item]) -> list[Predictions]:
                answers = recognizer.recognize(
                    [item.pixels for item in items],
                    [item.regions for item in items],
                    words,
                    top_k=top_k,
                    score=score,
                    masks=masks,
                    multimask=multimask,
                )
                return [answer.above(min_score) for answer in answers]

            aside += _work(
                pending,
                folder,
                ask,
                proposer=proposer,
                marks=marks,
                pictures=pictures,
                batch_size=batch_size,
                progress=progress,
            )
        seconds = time.perf_counter() - started
        names = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
        entries = folder.journal.entries
        if entries:
            described = "regions named by anyregion"
            write_coco(out / "predictions.json", folder.journal, names, description=described)
            if csv:
                write_csv(out / "predictions.csv", folder.journal)
        return BatchReport(
            out=out,
            images=len(set(pending) & set(entries)),
            kept=len(kept),
            regions=sum(e.regions for e in entries.values()),
            seconds=seconds,
            set_aside=(*aside, *earlier),
            unreadable=unreadable,
            only=folder.journal.read(next(iter(entries))) if len(entries) == 1 else None,
        )


def _work(
    pending: Mapping[str, tuple[Path, Asked]],
    folder: ResultsFolder,
    ask: Callable[[list[_Item]], list[Predictions]],
    *,
    proposer: RegionProposer | None,
    marks: Mapping[str, dict[str, int] | None],
    pictures: bool,
    batch_size: int,
    progress: Progress | None,
) -> list[SetAside]:
    """Three things at once: the next batch is read, this one named, the one before it written."""
    aside: list[SetAside] = []
    names = iter(pending)
    done, total = 0, len(pending)
    writing: Future[None] | None = None
    if progress is not None:
        progress(0, total)

    def write(batch: list[tuple[_Item, Predictions]]) -> None:
        for item, predictions in batch:
            _finish(folder, item, predictions, pictures)

    with ThreadPoolExecutor(1, thread_name_prefix="anyregion-write") as writer:
        for read in read_ahead([path for path, _ in pending.values()], batch_size=batch_size):
            items: list[_Item] = []
            failed: list[tuple[str, str]] = []
            for _, pixels in read:
                name = next(names)
                asked = pending[name][1]
                try:
                    if isinstance(pixels, InputError):
                        raise pixels
                    fitted, outside = _regions(asked, pixels, proposer)
                    items.append(_Item(name, pixels, fitted, asked.image_id, marks[name], outside))
                except InputError as error:
                    failed.append((name, str(error)))
            named: list[tuple[_Item, Predictions]] = []
            for item, answer in _named(ask, items):
                if isinstance(answer, InputError):
                    failed.append((item.name, str(answer)))
                else:
                    named.append((item, answer))
                    aside += [SetAside(f"{item.name}, {a.item}", a.reason) for a in item.set_aside]
            if writing is not None:
                writing.result()
            for name, reason in failed:
                aside += _skip_image(folder, name, reason)
            writing = writer.submit(write, named)
            done += len(read)
            if progress is not None:
                progress(done, total)
        if writing is not None:
            writing.result()
    return aside


def _named(
    ask: Callable[[list[_Item]], list[Predictions]], items: list[_Item]
) -> list[tuple[_Item, Predictions | InputError]]:
    """Each image with its answer; one that the model refuses does not take its batch along."""
    if not items:
        return []
    try:
        return list(zip(items, ask(items), strict=True))
    except InputError as error:
        if len(items) == 1:
            return [(items[0], error)]
        return [pair for item in items for pair in _named(ask, [item])]


def _finish(folder: ResultsFolder, item: _Item, predictions: Predictions, pictures: bool) -> None:
    picture = None
    if pictures:
        from anyregion.drawing import draw

        picture = draw(item.pixels, predictions.best_candidates())
    folder.finish(
        item.name,
        predictions,
        image_id=item.image_id,
        file=item.file,
        set_aside=item.set_aside,
        picture=picture,
    )


def _regions(
    asked: Asked, pixels: Pixels, proposer: RegionProposer | None
) -> tuple[Regions, list[SetAside]]:
    """The regions to name, given or found, and those that do not lie in the image."""
    height, width = pixels.shape[:2]
    if asked.size not in (None, (height, width)):
        stated = f"{asked.size[1]} x {asked.size[0]}" if asked.size else ""
        raise InputError(
            f"the image is {width} x {height} upright, but the region file says {stated}"
        )
    if asked.regions is not None:
        return asked.regions.fit(height, width)
    if proposer is None:
        raise InputError("no regions for this image, and nothing to find them")
    return proposer.propose(pixels).fit(height, width)


def _skip_image(folder: ResultsFolder, name: str, reason: str) -> list[SetAside]:
    folder.skip([SetAside("image", reason)], image=name)
    return [SetAside(name, reason)]


def _digest(vocabulary: Vocabulary | EncodedVocabulary | ExemplarVocabulary) -> str:
    """A hash of everything in a vocabulary that changes what regions are called."""
    names = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
    content = (names.names, names.synonyms, names.templates, names.ids, names.cleaning)
    digest = hashlib.sha256(repr(content).encode(errors="surrogatepass"))
    if isinstance(vocabulary, ExemplarVocabulary):
        digest.update(vocabulary.digest.encode())
        if isinstance(vocabulary.words, EncodedVocabulary):
            digest.update(_digest(vocabulary.words).encode())
    if isinstance(vocabulary, EncodedVocabulary):
        digest.update(vocabulary.model.encode())
        digest.update(vocabulary.matrix.tobytes())
    return f"sha256:{digest.hexdigest()}"
