"""`check_labels`: the names in annotations against what is learnt from the others of them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyregion.data.image_files import find_image
from anyregion.errors import CheckpointError, InputError, SetAside
from anyregion.files import write_csv, write_json, writing
from anyregion.images import image_digest
from anyregion.io.regions import RegionFile, load_regions
from anyregion.recognizer import Recognizer
from anyregion.runs.crop_sheets import Crop, write_sheets
from anyregion.runs.pipeline import Track, silent
from anyregion.runs.teach import file_names, prompts, teach_images
from anyregion.teaching.corrections import region_keys
from anyregion.teaching.suspects import Suspect, find_suspects, least_contradiction
from anyregion.teaching.vocabulary import TaughtVocabulary, is_taught
from anyregion.vocabulary import Vocabulary

FEATURES = "taught.vocab"
"""The file of a results folder that keeps the features, and all that was learnt."""
COLUMNS = (
    *("image", "region", "x0", "y0", "x1", "y1", "given", "suggested"),
    *("contradiction", "given_probability", "suggested_probability", "examples"),
)


@dataclass(frozen=True, kw_only=True)
class SuspectReport:
    """What `check_labels` came to.

    Attributes:
        suspects: the worst first, no more than the limit.
        total: how many there are in all.
        least: the least contradiction of a suspect.
        regions, images: how many were judged.
        agreed: the share of regions whose name is the likeliest one without their image.
        computed: images whose features were computed now.
        seconds: without loading the model.
        set_aside: images and regions that could not be used, and why.
    """

    suspects: tuple[Suspect, ...]
    total: int
    least: float
    regions: int
    images: int
    agreed: float
    computed: int
    seconds: float
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        numbers = {k: getattr(self, k) for k in ("total", "regions", "images", "computed")}
        return {
            **numbers,
            "least_contradiction": round(self.least, 4),
            "agreed": round(self.agreed, 4),
            "seconds": round(self.seconds, 2),
            "suspects": [suspect.to_dict() for suspect in self.suspects],
            "set_aside": [str(item) for item in self.set_aside],
        }


def check_labels(
    annotations: str | Path,
    images: str | Path | None,
    out: str | Path,
    names: Vocabulary | None = None,
    *,
    recognizer: Recognizer | Callable[[], Recognizer],
    least: float | None = None,
    limit: int | None = None,
    use_masks: bool = False,
    batch_size: int = 4,
    track: Track = silent,
) -> SuspectReport:
    """Find regions whose given name is contradicted by what is learnt from other images.

    Writes to `out`: `suspects.json`, `suspects.csv`, `sheets/` with crops, and `taught.vocab` with
    the features, so that the same call on annotations that were corrected reads no image again
    but for the crops.

    Args:
        annotations: a file that `teach_images` reads; or a taught vocabulary, whose corrections are
            judged as they are.
        images: the folder of the images; of a taught vocabulary only the crops need it.
        out: a folder, made if it is missing; what an earlier call wrote is replaced.
        names: what else a region may be; None for the categories of the annotations.
        recognizer: the model, or what loads it; not asked for a taught vocabulary.
        least: the least contradiction of a suspect, 0 to 1 (`contradictions`); None for
            `least_contradiction`.
        limit: no more suspects than that; None for all.
        use_masks: see regions by their masks too.
        batch_size: images at once.
        track: shows how far the work is.

    Raises:
        InputError: annotations that cannot be used, or of one image alone.
        CheckpointError: the features in `out` are of another model.
        AnyRegionError: `out` cannot be written.
    """
    annotations, out = Path(annotations), Path(out)
    set_aside: list[SetAside] = []
    computed = 0
    # one that is damaged says so
    if annotations.suffix.casefold() == ".vocab" or (
        annotations.is_file() and is_taught(annotations)
    ):
        taught = TaughtVocabulary.load(annotations)
        started = time.perf_counter()
    else:
        if images is None:
            raise InputError(f"{annotations}: give the folder of its images")
        if not isinstance(recognizer, Recognizer):
            recognizer = recognizer()
        started = time.perf_counter()
        report = teach_images(
            annotations,
            images,
            _kept(out / FEATURES, annotations, Path(images), names, recognizer, use_masks),
            recognizer=recognizer,
            use_masks=use_masks,
            batch_size=batch_size,
            track=track,
        )
        taught, computed = report.vocabulary, report.images
        set_aside += report.set_aside
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        # before anything is judged: what is wrong with the names is no reason to see images twice
        taught.save(out / FEATURES)
    suspects = find_suspects(taught, least=least)
    shown = tuple(suspects[:limit])
    assert taught.left_out is not None  # or nothing had been judged
    assert taught.corrections is not None
    result = SuspectReport(
        suspects=shown,
        total=len(suspects),
        least=least_contradiction(taught.labels) if least is None else least,
        regions=len(taught.labels),
        images=len(taught.corrections.images),
        agreed=float(taught.left_out.right(taught.labels).mean()),
        computed=computed,
        seconds=time.perf_counter() - started,
        set_aside=tuple(set_aside),
    )
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        _write_csv(out / "suspects.csv", shown)
        missing = write_sheets(out / "sheets", _crops(shown), images, track)
        result = replace(result, set_aside=(*result.set_aside, *missing))
        write_json(out / "suspects.json", result.to_dict(), indent=2)
    return result


def _kept(
    path: Path,
    annotations: Path,
    images: Path,
    names: Vocabulary | None,
    recognizer: Recognizer,
    use_masks: bool,
) -> Vocabulary | TaughtVocabulary | None:
    """The features of an earlier call with the names of this one, if there are any; else names.

    Only regions that the annotations still have: others, which were moved or taken out, are no
    evidence of what is right.
    """
    if not path.is_file():
        return names
    kept = TaughtVocabulary.load(path)
    try:
        recognizer.encode_vocabulary(kept)
    except (CheckpointError, InputError) as error:
        raise CheckpointError(f"{path}: {error}. Give another folder, or remove the file") from None
    file = load_regions(annotations, masks=use_masks, scores=False, images=images)
    names = file_names(file, annotations) if names is None else names
    corrections = kept.corrections
    if corrections is None:
        return names
    keys = _keys_by_digest(file, images, {m.digest: m.size for m in corrections.images}, use_masks)
    gone = [
        i
        for i, (image, key) in enumerate(zip(corrections.image_of, corrections.keys, strict=True))
        if key not in keys[corrections.images[image].digest]
    ]
    corrections = corrections.without(gone)
    if not len(corrections):
        return names
    encoded = recognizer.encode_vocabulary(names)
    return TaughtVocabulary(
        vocabulary=names,
        matrix=encoded.matrix,
        model=encoded.model,
        unreadable=encoded.unreadable,
        # teaching by the annotations gives each the name that it has there
        corrections=replace(corrections, labels=np.full(len(corrections), -1, dtype=np.int64)),
    )


def _keys_by_digest(
    file: RegionFile, images: Path, sizes: dict[str, tuple[int, int]], use_masks: bool
) -> dict[str, set[str]]:
    """By the digest of images that were seen before, the keys of their regions in the file."""
    keys: dict[str, set[str]] = defaultdict(set)
    for entry in file.images.values():
        path = find_image(images, entry.file_name or "")
        try:
            digest = "" if path is None else image_digest(path).hex()
        except InputError:
            continue  # teaching says so
        if digest in sizes:
            regions, _ = prompts(entry.regions, masks=use_masks).fit(*sizes[digest])
            keys[digest].update(region_keys(regions))
    return keys


def _write_csv(path: Path, suspects: Sequence[Suspect]) -> None:
    rows = []
    for suspect in suspects:
        values = suspect.to_dict()
        box = values["box"] or [""] * 4
        values |= dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
        rows.append([values[column] for column in COLUMNS])
    write_csv(path, COLUMNS, rows)


def _crops(suspects: Sequence[Suspect]) -> list[Crop]:
    """What the sheets show of each."""
    return [
        Crop(
            s.image,
            np.array(s.box),
            s.suggested,
            ((s.given, f"  #{i}"), (s.suggested, f" ? {s.suggested_probability:.2f}")),
        )
        for i, s in enumerate(suspects, 1)
    ]
