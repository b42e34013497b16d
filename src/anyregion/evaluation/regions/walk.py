"""One walk over annotated images for every evaluator: found, read ahead, checked, named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anyregion.errors import InputError, SetAside
from anyregion.images import Pixels, size_of
from anyregion.io.regions import ImageEntry
from anyregion.predictions import Predictions
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.runs.reading import read_ahead
from anyregion.scoring import Score
from anyregion.vocabulary import EncodedVocabulary, Progress


@dataclass(frozen=True, eq=False)
class Photo:
    """One image that could be read and has the size that the annotations state."""

    entry: ImageEntry
    path: Path
    pixels: Pixels


def find_files(
    entries: Iterable[ImageEntry],
    folder: Path,
    *,
    limit: int | None = None,
    without_regions: bool = False,
    aside: list[SetAside],
) -> list[tuple[ImageEntry, Path]]:
    """The first `limit` entries, each with its image file; what has none is set aside.

    Args:
        entries: as the annotations list them.
        folder: `file_name` starts from it; or it holds the bare file.
        limit: no more than so many entries.
        without_regions: also take entries that have no regions.
        aside: grows by what is set aside.

    Raises:
        InputError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 image; it is {limit}")
    listed = [e for e in entries if e.file_name]
    paths = {e.key: _image_path(folder, str(e.file_name)) for e in listed}
    claims = Counter(paths.values())
    asked = [e for e in listed if without_regions or len(e.regions)][:limit]
    found: list[tuple[ImageEntry, Path]] = []
    for entry in asked:
        path = paths[entry.key]
        if path is None:
            aside.append(SetAside(str(entry.file_name), f"not in {folder}"))
        elif claims[path] > 1:
            # `a/1.jpg` and `b/1.jpg` both lead to `1.jpg`: whose regions it has, nobody can tell
            reason = f"{path} could be the file of {claims[path]} entries"
            aside.append(SetAside(str(entry.file_name), reason))
        else:
            found.append((entry, path))
    return found


def walk(
    found: Sequence[tuple[ImageEntry, Path]],
    *,
    batch_size: int,
    progress: Progress | None = None,
    aside: list[SetAside],
) -> Iterator[list[Photo]]:
    """Yield the images of each batch, in order; those that cannot be used are set aside."""
    entries = iter([entry for entry, _ in found])
    done = 0
    if progress is not None:
        progress(0, len(found))  # the time left is to be counted from here
    for batch in read_ahead([path for _, path in found], batch_size=batch_size):
        photos: list[Photo] = []
        for path, image in batch:
            entry = next(entries)
            reason = _problem(entry, image)
            if reason is not None:
                aside.append(SetAside(str(path), reason))
            elif not isinstance(image, InputError):
                photos.append(Photo(entry, path, image))
        yield photos
        done += len(batch)
        if progress is not None:
            progress(done, len(found))


def name_regions(
    recognizer: Recognizer,
    words: EncodedVocabulary,
    batches: Iterable[list[Photo]],
    ask: Callable[[Photo], Regions | None],
    *,
    aside: list[SetAside],
    top_k: int,
    score: Score | None,
    masks: bool = False,
    use_masks: bool = True,
) -> Iterator[tuple[Photo, Predictions]]:
    """Name what `ask` returns for each image; images of no region are passed over.

    Regions that do not lie in their image are set aside. The masks that they bring are prompts
    unless `use_masks` is False; the predictions' regions have them all the same.
    """
    for photos in batches:
        asked: list[tuple[Photo, Regions]] = []
        for photo in photos:
            regions = ask(photo)
            if regions is None or not len(regions):
                continue
            kept, outside = regions.fit(*size_of(photo.pixels))
            aside += [SetAside(f"{photo.path}, {a.item}", a.reason) for a in outside]
            if len(kept):
                asked.append((photo, kept))
        if asked:
            answers = recognizer.recognize(
                [photo.pixels for photo, _ in asked],
                [regions if use_masks else _without_masks(regions) for _, regions in asked],
                words,
                top_k=top_k,
                score=score,
                masks=masks,
            )
            for (photo, regions), answer in zip(asked, answers, strict=True):
                yield photo, replace(answer, regions=regions)


def nothing(annotations: object, aside: Sequence[SetAside], otherwise: str) -> InputError:
    """The error of an evaluation that had nothing to do, with the last thing that was set aside."""
    last = f"; {len(aside):,} set aside, the last: {aside[-1]}" if aside else ""
    return InputError(f"{annotations}: nothing to evaluate: {otherwise} that can be used{last}")


def _without_masks(regions: Regions) -> Regions:
    return replace(regions, masks=(None,) * len(regions))


def _problem(entry: ImageEntry, image: Pixels | InputError) -> str | None:
    if isinstance(image, InputError):
        return str(image)
    size = size_of(image)
    if entry.size is not None and entry.size != size:
        # boxes of another size of the image would be compared with the wrong pixels
        return f"{size[1]} x {size[0]}, but the annotations say {entry.size[1]} x {entry.size[0]}"
    return None


def _image_path(folder: Path, name: str) -> Path | None:
    places = (folder / name, folder / Path(name).name)
    return next((path for path in places if path.is_file()), None)
