"""`recognize_images`: a run over many images that writes a results folder, and continues one."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from glob import has_magic
from pathlib import Path
from typing import Any

from anyregion import factory
from anyregion.drawing.options import PictureOptions
from anyregion.errors import InputError, SetAside
from anyregion.exemplars import ExemplarVocabulary
from anyregion.images import find_images, is_list, read_list
from anyregion.io.regions import RegionFile, load_regions
from anyregion.io.vocabulary import load_vocabulary
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.runs.pipeline import (
    ProposedRegions,
    RecognizeOptions,
    RegionSource,
    SameRegions,
    Sample,
    Track,
    file_samples,
    silent,
)
from anyregion.runs.results_folder import ResultsFolder
from anyregion.runs.run_file import earlier_root, is_results_folder
from anyregion.runs.run_naming import (
    Drawing,
    NamedPart,
    RecognizerSource,
    load_model,
    load_naming,
    name_in_processes,
)
from anyregion.vocabulary import EncodedVocabulary, Vocabulary

# how long a run that is interrupted still writes
_SECONDS_TO_WRITE = 0.3


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What a run writes beside `predictions.json` and its journal.

    Attributes:
        pictures: draw a picture of each image.
        picture: what these look like.
        csv: also write `predictions.csv`.
        overwrite: start anew where there is a run already, in place of continuing it.
        keep_refused: `predictions.json` holds regions under `min_score` too, with `"refused": true`
            (the journal always does), and they are drawn, in grey.
    """

    pictures: bool = True
    picture: PictureOptions = field(default_factory=PictureOptions)
    csv: bool = False
    overwrite: bool = False
    keep_refused: bool = False


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        out: its folder.
        images: images named by this run.
        earlier: images that an earlier run had finished.
        regions: rows in the results, over all images, without those refused.
        seconds: time spent on the images, without loading the model.
        set_aside: images and regions left out, and why.
        unreadable: names that the text model has no pieces for.
        only: the journal's line where the folder holds one image, else None.
        refused: rows whose best name scores less than `min_score`.
        duplicates: regions that this run left out for a better one of the same name.
    """

    out: Path
    images: int
    earlier: int
    regions: int
    seconds: float
    set_aside: tuple[SetAside, ...]
    unreadable: tuple[str, ...]
    only: dict[str, Any] | None
    refused: int = 0
    duplicates: int = 0


def recognize_images(
    paths: str | Path | Sequence[str | Path],
    vocabulary: Vocabulary | EncodedVocabulary | ExemplarVocabulary | Sequence[str] | str,
    regions: Regions | RegionSource | str | Path = "auto",
    *,
    out: str | Path = "anyregion-results",
    recognizer: RecognizerSource = "compact",
    options: RecognizeOptions | None = None,
    output: OutputOptions | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int = 1,
    track: Track = silent,
) -> RunReport:
    """Name the regions of many images and write the results folder (see `ResultsFolder`).

    Images that an earlier run finished are not read again, unless their file has changed since (in
    size or time of change); if all are finished, no model is loaded. What cannot be used (an image,
    a region) is set aside and the rest goes on. An interrupted run, even a killed one, leaves
    finished images intact; calling again continues it.

    Args:
        paths: files, folders, globs, and lists (`.txt`, a path a line; paths start from the list's
            folder). Images are named by their path from the folder that holds all of these; that is
            the `file_name` in the results.
        vocabulary: the names to choose from, or what `load_vocabulary` reads.
        regions: the same for every image, a file that `load_regions` reads, or `auto`: the model
            finds them, or `r2o:WHERE`: without labels (see `load_proposer`). A `RegionSource`
            leaves more to choose.
        out: the folder; its own pictures are never taken as input.
        recognizer: the model, its name, or what loads it; loaded if there is anything to do.
        options: how regions are named.
        output: what is written.
        settings: of the model, for `run.json`; a run with other settings may not continue.
        workers: processes that name images at once, each with a model of its own and one thread;
            the results are the same. `recognizer` then has to be a name or a function that
            processes can import.
        track: shows how far the work is.

    Raises:
        InputError: no image at all, other settings than the run in `out`, wrong arguments.
        AnyRegionError: the folder cannot be written.
    """
    from anyregion import __version__

    if workers < 1:
        raise InputError("at least one worker")
    if workers > 1 and isinstance(recognizer, Recognizer):
        raise InputError("several workers load a model each: give its name, or what loads it")
    out = Path(out)
    # plain values become what the rest of the run works with
    options, output = options or RecognizeOptions(), output or OutputOptions()
    if isinstance(vocabulary, str):
        vocabulary = load_vocabulary(vocabulary)
    elif not isinstance(vocabulary, (Vocabulary, EncodedVocabulary, ExemplarVocabulary)):
        vocabulary = Vocabulary.from_names(vocabulary)
    source: RegionSource
    if isinstance(regions, Regions):
        source = SameRegions(regions)
    elif isinstance(regions, (str, Path)):
        if regions == "auto":
            source = ProposedRegions()
        elif str(regions).startswith((factory.TREES, factory.JOINT)):
            source = ProposedRegions(str(regions))
        else:
            source = load_regions(regions)
    else:
        source = regions
    root, images, set_aside = name_images(
        [paths] if isinstance(paths, (str, Path)) else paths,
        pictures=out / "pictures",
        root=None if output.overwrite else earlier_root(out),
    )
    if not images:
        more = f"; and {len(set_aside) - 5} more" if len(set_aside) > 5 else ""
        raise InputError("; ".join(map(str, set_aside[:5])) + more or "no images given")
    # whatever changes an answer or a picture: a run with other values may not continue this one
    fixed = {
        **(settings or {}),
        "top_k": options.top_k,
        "score": options.score or "the model's own",
        "min_score": options.min_score,
        "masks": options.masks,
        "multimask": options.multimask,
        "pictures": output.pictures,
        "vocabulary": vocabulary_digest(vocabulary),
        "regions": source.digest,
    }
    # earlier runs' settings do not say what follows
    if options.merge:
        fixed["merge"] = True
    if output.pictures and (look := output.picture.to_dict()):
        fixed["picture"] = look
    folder = ResultsFolder(
        out, settings=fixed, root=root, version=__version__, overwrite=output.overwrite
    )
    try:
        finished = folder.journal.entries
        marks: dict[str, dict[str, int]] = {}
        for name, path in images.items():
            with suppress(OSError):  # one that is gone by now has no mark
                status = path.stat()
                marks[name] = {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
        # answers of files that have changed since; they go once it is sure that new ones will come
        stale = [
            n for n in images if n in finished and finished[n].line.get("file") != marks.get(n)
        ]
        earlier = (images.keys() & finished.keys()) - set(stale)
        earlier_skips = [
            SetAside(f"{name}, {a['item']}", a["reason"])
            for name in sorted(earlier)
            for a in finished[name].line.get("set_aside", ())
        ]
        set_aside += source.set_aside
        if isinstance(source, RegionFile):
            samples = file_samples(source, images, root)
        else:
            samples = source.samples(images)
        samples = {n: s for n, s in samples.items() if n not in earlier}
        pending = [sample for sample in samples.values() if isinstance(sample, Sample)]
        started = time.perf_counter()
        unreadable: tuple[str, ...] = ()
        # without anything to do no model is loaded: to ask for a finished run costs nothing
        if pending:
            # of several workers, too: they are sent the encoded vocabulary
            model = load_model(recognizer)
            progress = track("reading the vocabulary", "names")
            encoded = model.encode_vocabulary(vocabulary, progress=progress)
            unreadable = encoded.unreadable
            drawing = Drawing(output.picture, output.keep_refused) if output.pictures else None
            naming = load_naming(model, encoded, source, options, drawing)
            folder.renew(naming.models(), stale=stale)
            started = time.perf_counter()
        elif stale:
            folder.renew(stale=stale)
        finished = folder.journal.entries
        folder.skip(set_aside)
        for name, reason in samples.items():
            if isinstance(reason, str):
                folder.skip([SetAside("image", reason)], image=name)
                set_aside.append(SetAside(name, reason))
        duplicates = 0
        if pending:
            progress = track("naming regions", "images")
            if workers == 1 or len(pending) == 1:
                parts = naming.name(pending, progress)
            else:
                load = partial(load_naming, recognizer, encoded, source, options, drawing)
                del naming, model  # the workers have their own
                parts = name_in_processes(load, pending, workers, progress)
            skipped, duplicates = _write_results(
                parts, folder, marks, output=output, min_score=options.min_score
            )
            set_aside += skipped
        seconds = time.perf_counter() - started
        # of the journal, not of this run's answers: earlier ones belong to the results too
        if finished:
            names = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
            folder.write_coco(names, refused=output.keep_refused)
            if output.csv:
                folder.write_csv()
        return RunReport(
            out=out,
            images=sum(sample.name in finished for sample in pending),
            earlier=len(earlier),
            regions=sum(entry.regions - entry.refused for entry in finished.values()),
            refused=sum(entry.refused for entry in finished.values()),
            seconds=seconds,
            set_aside=(*set_aside, *earlier_skips),
            unreadable=unreadable,
            only=next(folder.journal.lines()) if len(finished) == 1 else None,
            duplicates=duplicates,
        )
    finally:
        folder.journal.file.close()


def name_images(
    paths: Sequence[str | Path], *, pictures: Path, root: Path | None = None
) -> tuple[Path, dict[str, Path], list[SetAside]]:
    """Find the images of `paths`, and name each by its path from one folder, with `/` between.

    That folder is the deepest that holds everything given: a folder itself, the parent of a file,
    the fixed part of a glob. So `photos` names `photos/a/x.jpg` as `a/x.jpg`.

    Args:
        paths: files, folders and globs, as for `find_images`, and lists of them (`read_list`).
        pictures: a folder of the run's own pictures, which are no input. Nor are the pictures that
            another run drew, but for a file named outright.
        root: the folder that an earlier run's names start from; kept if it holds the images.

    Returns:
        The folder; `{name: absolute path}`, each image once; paths that lead to nothing.
    """
    listed: list[str | Path] = []
    for path in paths:
        listed += read_list(Path(path).expanduser()) if is_list(path) else [path]
    paths = [path for path in listed if "://" not in str(path)]
    images, set_aside = find_images(paths)
    reason = "an address, which `anyregion index` alone reads"
    set_aside += [SetAside(str(path), reason) for path in listed if "://" in str(path)]
    outright = {path for p in paths if (path := Path(p).expanduser()).is_file()}
    # images share their few folders, whose run.json need not be read for each image
    is_run = cache(is_results_folder)
    files: list[Path] = []
    for path in images:
        folders = path.resolve().parents
        is_picture = any(f.name == "pictures" and is_run(f.parent) for f in folders)
        if pictures.resolve() not in folders and (path in outright or not is_picture):
            # not resolve(): a link keeps the name that it was given under
            files.append(Path(os.path.abspath(path)))  # noqa: PTH100
    if images and not files:
        set_aside.append(SetAside("the images", "pictures that a run of anyregion drew"))
    if root is None or not all(path.is_relative_to(root) for path in files):
        starts: list[str] = []
        for path in (Path(p).expanduser() for p in paths):
            parts = path.parts
            # whatever its name: a file may be called [1].jpg
            if path.is_file():
                parts = parts[:-1]
            elif not path.is_dir():
                fixed = (i for i, part in enumerate(parts) if has_magic(part))
                parts = parts[: next(fixed, len(parts) - 1)]
            starts.append(os.path.abspath(Path(*parts)))  # noqa: PTH100
        try:
            root = Path(os.path.commonpath(starts or [os.curdir]))
        except ValueError:
            reason = "the images lie on several drives: give them in several runs"
            raise InputError(reason) from None
    return root, {path.relative_to(root).as_posix(): path for path in files}, set_aside


def _write_results(
    parts: Iterator[NamedPart],
    folder: ResultsFolder,
    marks: Mapping[str, dict[str, int]],
    *,
    output: OutputOptions,
    min_score: float,
) -> tuple[list[SetAside], int]:
    """Write each part in a thread, while the next is named and the one after it is read.

    Returns:
        What was set aside, and how many duplicates were left out.
    """
    set_aside: list[SetAside] = []
    duplicates = 0
    writing: list[Future[None]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="anyregion-write") as writer:
        try:
            for part in parts:
                # no more than one part waits, so that a slow disk fills no memory
                for future in writing:
                    future.result()
                for name, reason in part.skipped:
                    folder.skip([SetAside("image", reason)], image=name)
                set_aside += part.set_aside
                writing = []
                for image in part.images:
                    duplicates += image.duplicates
                    # a region file's ids are of any kind, if any; COCO's ids of images are numbers
                    key = image.key or ""
                    future = writer.submit(
                        folder.finish,
                        image.name,
                        image.predictions,
                        image_id=int(key) if key.isascii() and key.isdecimal() else None,
                        file=marks.get(image.name),
                        set_aside=image.set_aside,
                        pixels=image.pixels,
                        drawn=image.picture,
                        min_score=min_score,
                        picture=output.picture,
                        draw_refused=output.keep_refused,
                    )
                    writing.append(future)
            for future in writing:
                future.result()
        except KeyboardInterrupt:
            # what is named is kept, unless it takes long: pictures of thousands of regions
            wait(writing, timeout=_SECONDS_TO_WRITE)
            writer.shutdown(wait=False, cancel_futures=True)
            raise
    return set_aside, duplicates


def vocabulary_digest(vocabulary: Vocabulary | EncodedVocabulary | ExemplarVocabulary) -> str:
    """A hash of everything in a vocabulary that changes what regions are called."""
    names = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
    content = (names.names, names.synonyms, names.templates, names.ids, names.cleaning)
    # names of a file need not be valid Unicode
    digest = hashlib.sha256(repr(content).encode(errors="surrogatepass"))
    if isinstance(vocabulary, ExemplarVocabulary):
        digest.update(vocabulary.digest.encode())
        if isinstance(vocabulary.words, EncodedVocabulary):
            digest.update(vocabulary_digest(vocabulary.words).encode())
    # an encoded vocabulary is what its matrix says, whatever its names are
    if isinstance(vocabulary, EncodedVocabulary):
        digest.update(vocabulary.model.encode())
        digest.update(vocabulary.matrix.tobytes())
        if vocabulary.classifier is not None:
            digest.update(vocabulary.classifier.digest.encode())
    return f"sha256:{digest.hexdigest()}"
