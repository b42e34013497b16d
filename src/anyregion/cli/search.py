"""`anyregion search`: the regions or images of an index nearest to words or to a region."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE, SET_ASIDE

if TYPE_CHECKING:
    from anyregion.index import Query
    from anyregion.recognizer import Recognizer

# rows of the table
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("index", type=Path, metavar="INDEX", help="of `anyregion index`")
    parser.add_argument("text", nargs="?", metavar="TEXT", help='what to look for: "red bus"')
    parser.add_argument(
        "--like",
        metavar="IMAGE:x0,y0,x1,y1",
        help="look for regions like this one of an image, in place of words",
    )
    parser.add_argument(
        "--top",
        type=shared.positive,
        metavar="N",
        help="matches at most (default: 50; with --min-similarity all, which may be 100,000)",
    )
    parser.add_argument(
        "--min-similarity",
        type=shared.share,
        metavar="S",
        help="lowest similarity of a match: with words, lists to look through begin at 0.3, and "
        "few are wrong from 0.45 on (default: any)",
    )
    parser.add_argument(
        "--by",
        choices=["region", "image"],
        default="region",
        help="image: a match an image, its best region; --top counts images (default: region)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write matches.jsonl there, images.txt (a list of the images, which recognize and "
        "index read), and sheets of the first 900 matches, whose images alone are read",
    )
    parser.add_argument("--no-pictures", action="store_true", help="write no sheets")
    parser.add_argument("--device", default="cpu", help="of the model (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Search, and show the best matches."""
    import time

    from anyregion.cli import terminal
    from anyregion.errors import InputError
    from anyregion.index import Query, RegionIndex, search_index, write_matches
    from anyregion.index.search import MOST_SHOWN

    if (args.text is None) == (args.like is None):
        raise InputError("give either words to look for, or --like IMAGE:x0,y0,x1,y1")
    index = RegionIndex.open(args.index)
    recognizer = index.load_recognizer(args.device)
    if args.text is not None:
        query = Query.from_text(recognizer, args.text)
    else:
        query = like(recognizer, args.like)
    started = time.perf_counter()
    matches = search_index(
        index, query, recognizer, top=args.top, min_similarity=args.min_similarity, by=args.by
    )
    seconds = time.perf_counter() - started
    counted = args.by == "image" and args.min_similarity is not None
    terminal.table(
        ("image", "region", "similarity", "score", "box", *(["regions"] if counted else [])),
        (
            (
                m.image.image.name,
                m.id,
                f"{m.similarity:.3f}",
                "" if m.score is None else f"{m.score:.3f}",
                ", ".join(f"{v:g}" for v in m.box.round(1)),
                *([m.regions] if counted else []),
            )
            for m in matches[:SHOWN]
        ),
        numbers=(2, 3, 5),
    )
    if len(matches) > SHOWN:
        print(f"... and {len(matches) - SHOWN} more")
    print()
    set_aside = []
    if args.out is not None:
        with terminal.progress() as track:
            set_aside = write_matches(
                index, query, matches, args.out, pictures=not args.no_pictures, track=track
            )
    terminal.warn_list("not shown or listed", set_aside)
    lines: list[tuple[str, object]] = [("matches", len(matches))]
    if args.by == "region":
        lines.append(("images", len({m.image.image.name for m in matches})))
    lines.append(("seconds", f"{seconds:.2f}"))
    if args.out is not None:
        if len(matches) > MOST_SHOWN and not args.no_pictures:
            lines.append(("on sheets", f"the first {MOST_SHOWN}"))
        lines.append(("written to", args.out))
    terminal.fields(lines)
    return SET_ASIDE if set_aside else FINE


def like(recognizer: Recognizer, text: str) -> Query:
    """The region of `IMAGE:x0,y0,x1,y1`."""
    from anyregion.cli.recognize import parse_box
    from anyregion.errors import InputError
    from anyregion.images import read_image
    from anyregion.index import Query
    from anyregion.regions import Regions

    path, _, box = text.rpartition(":")
    try:
        regions = Regions.from_boxes([parse_box(box)])
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--like {text}: {error}") from None
    (embeddings,) = recognizer.embed([read_image(Path(path))], [regions])
    return Query.from_embedding(f"like {Path(path).name}", embeddings[0])
