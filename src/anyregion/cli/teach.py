"""`anyregion teach`: names learnt from corrected regions, into one file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE, SET_ASIDE
from anyregion.errors import InputError
from anyregion.files import read_json

if TYPE_CHECKING:
    from anyregion.recognizer import Recognizer
    from anyregion.runs.teach import TeachReport
    from anyregion.teaching.region_table import RegionTable
    from anyregion.teaching.teacher import Teacher
    from anyregion.teaching.vocabulary import TaughtVocabulary

EXAMPLE = """\
anyregion recognize photos --regions boxes.json --vocabulary "hat, scarf" --out run
  correct the categories in run/predictions.json, in any tool for COCO; one that is called
  "none of these" is for regions that have none of the names
anyregion teach run/predictions.json --images photos --out my.vocab
anyregion recognize more --regions boxes.json --vocabulary my.vocab

printed is what share of each name's examples (the corrected regions themselves) is named rightly
by what the other images taught ("right without own image"): where a name has one example, or all
are in one image, by its words alone. `evaluate classification` judges by other photographs

"""
# rows of the table of names
SHOWN = 40
LEFT_OUT = "right without own image"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EXAMPLE + (parser.epilog or "")
    parser.add_argument(
        "corrections",
        nargs="?",
        type=Path,
        metavar="CORRECTIONS",
        help="regions with their right names: COCO annotations, a run's predictions.json that was "
        "edited, Label Studio's JSON, CVAT's XML, LabelMe's files, YOLO's data.yaml, a Pascal VOC "
        "folder or list, OpenImages' CSV, a CSV of boxes, or a folder of crops that was sorted. "
        "Every region in it counts as looked over; regions that two entries name otherwise, as the "
        "later one says",
    )
    shared.add_layout_argument(parser, "--layout", "CORRECTIONS")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="the folder of the images; not needed for regions that --vocabulary was taught before",
    )
    parser.add_argument(
        "--index",
        type=Path,
        metavar="INDEX",
        help="an index (of anyregion index --features) that has regions of CORRECTIONS: of those "
        "no image is read; images of others are looked for in --images (default: where INDEX had "
        "them)",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="NAMES_OR_FILE",
        help="the names, as for recognize (default: the categories of CORRECTIONS); or a taught "
        "vocabulary (my.vocab) to go on with. Names of corrections that it lacks join it",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.vocab", help="where to write it"
    )
    parser.add_argument(
        "--forget",
        action="append",
        default=[],
        metavar="IMAGE[:REGION]",
        help="take back what --vocabulary was taught by an image, or by the region of it with that "
        "id; may be repeated",
    )
    parser.add_argument(
        "--use-masks", action="store_true", help="use the masks of CORRECTIONS as prompts too"
    )
    shared.add_vocabulary_arguments(parser, exemplars=False)
    shared.add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Teach, and say what was learnt."""
    from anyregion.cli import terminal
    from anyregion.runs.teach import teach_images
    from anyregion.teaching.teacher import Teacher
    from anyregion.teaching.vocabulary import TaughtVocabulary
    from anyregion.vocabulary import Vocabulary

    if args.out.suffix.casefold() != ".vocab":
        raise InputError(f"{args.out}: a taught vocabulary is called FILE.vocab")
    _check_place(args.out)
    if args.corrections is None and not args.forget:
        raise InputError("nothing to learn: give CORRECTIONS, or --forget")
    names: Vocabulary | TaughtVocabulary | None = None
    if args.vocabulary is not None:
        words = shared.read_words(args)
        if not isinstance(words, (Vocabulary, TaughtVocabulary)):
            raise InputError(f"{args.vocabulary}: encoded already: give its names")
        names = words
        listed = names if isinstance(names, Vocabulary) else names.vocabulary
        terminal.warn_list("read from the vocabulary", listed.notes)
        terminal.warn_list("names left out of the vocabulary", listed.set_aside)
    if args.forget and not isinstance(names, TaughtVocabulary):
        raise InputError("--forget needs a taught vocabulary as --vocabulary")
    recognizer, table = None, None
    if args.index is not None:
        recognizer, table = _open_index(args)
    recognizer = recognizer or shared.recognizer_loader(args)()
    if isinstance(names, TaughtVocabulary) and args.forget:
        teacher = Teacher(recognizer, names)
        for item in args.forget:
            _forget(teacher, item)
        names = teacher.vocabulary()
    report: TeachReport | None = None
    if args.corrections is not None:
        with terminal.progress() as track:
            report = teach_images(
                args.corrections,
                args.images,
                names,
                recognizer=recognizer,
                use_masks=args.use_masks,
                layout=args.layout,
                batch_size=args.batch_size,
                table=table,
                track=track,
            )
        if names is None:
            listed = report.vocabulary.vocabulary
            terminal.warn_list("read from CORRECTIONS", listed.notes)
            terminal.warn_list("categories that are no name of their own", listed.set_aside)
        terminal.warn_list("set aside", report.set_aside)
        same, named = _as_answered(args.corrections)
        if same == named > 0:
            terminal.note(
                "warning: every name is as it was answered: nothing was corrected "
                "(what counts is category_id, not labels)"
            )
        elif 2 * same > named:
            terminal.note(
                f"{same} of {named} names are as they were answered, and count as right: if "
                "nobody looked at those, teach by the looked-over regions alone, as `anyregion "
                "review` saves them and `anyregion queue` writes them"
            )
        names = report.vocabulary
    assert isinstance(names, TaughtVocabulary)
    names.save(args.out)
    _print(args, names, report)
    return SET_ASIDE if report is not None and report.set_aside else FINE


def _open_index(args: argparse.Namespace) -> tuple[Recognizer, RegionTable]:
    """The model of the index, and its regions that CORRECTIONS may name."""
    from anyregion.index import RegionIndex, table_of_images
    from anyregion.io.regions import load_regions

    if args.corrections is None or args.use_masks:
        raise InputError("--index is for CORRECTIONS, and without --use-masks")
    index = RegionIndex.open(args.index)
    file = load_regions(args.corrections, scores=False, images=args.images, layout=args.layout)
    names = [str(entry.file_name) for entry in file.images.values() if entry.file_name]
    root = Path(index.manifest.root)
    if args.images is None and root.is_dir():
        args.images = root
    return index.load_recognizer(args.device), table_of_images(index, names)


def _check_place(out: Path) -> None:
    """Whether the file can be written there: teaching may take long, and is not to be in vain."""
    if out.is_dir():
        raise InputError(f"{out}: a folder; give the name of a file")
    folder = next(place for place in out.absolute().parents if place.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{out}: cannot be written: {folder} does not let files be made in it")


def _as_answered(corrections: Path) -> tuple[int, int]:
    """Of the regions of a file that `recognize` wrote, those with no category changed, and all."""
    # what is larger is no run that somebody edited, and takes long to read
    if corrections.suffix.casefold() != ".json" or not 0 < _size(corrections) < 1e8:
        return 0, 0
    content = read_json(corrections)
    if not isinstance(content, dict):
        return 0, 0
    categories, rows = (content.get(key) or [] for key in ("categories", "annotations"))
    # what is malformed was set aside
    names = {str(c.get("id")): c.get("name") for c in categories if isinstance(c, dict)}
    answered = [
        isinstance(row.get("labels"), list)
        and row["labels"][:1] == [names.get(str(row.get("category_id")))]
        for row in rows
        if isinstance(row, dict)
    ]
    return sum(answered), len(answered)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _forget(teacher: Teacher, item: str) -> None:
    images = () if teacher.corrections is None else teacher.corrections.images
    image, _, region = item.rpartition(":")
    # a file's name may hold a colon
    if image and item not in [m.name for m in images]:
        teacher.forget(image, region)
    else:
        teacher.forget(item)


def _print(args: argparse.Namespace, taught: TaughtVocabulary, report: TeachReport | None) -> None:
    from anyregion.cli import terminal
    from anyregion.runs.teach import left_out_figures

    figures = left_out_figures(taught)
    shown = sorted((f for f in figures if f[1]), key=lambda f: (f[2] or 0.0, -f[1]))
    terminal.table(
        ("name", "examples", LEFT_OUT),
        ((name, count, "-" if r is None else f"{r:.0%}") for name, count, r in shown[:SHOWN]),
        numbers=(1, 2),
    )
    if len(shown) > SHOWN:
        print(f"... and {len(shown) - SHOWN} more")
    if shown:
        print(f"{LEFT_OUT}: the share of these examples named rightly by what other images taught")
    print()
    labels, left_out = taught.labels, taught.left_out
    lines: list[tuple[str, object]] = []
    if report is not None:
        lines += [
            ("images seen", report.images),
            ("regions new", report.added),
            *([] if args.index is None else [("of the index", report.stored)]),
            ("regions known", report.known),
        ]
        if report.names_added:
            lines.append(("names added", ", ".join(report.names_added[:8])))
    lines += [
        ("corrections", len(labels)),
        ("none of these", int((labels == len(taught.vocabulary)).sum())),
        ("names", f"{len(taught.vocabulary)}, {len(shown)} with examples"),
    ]
    if left_out is not None:
        # "none of these" counts too
        right = float(left_out.right(labels).mean())
        lines.append((LEFT_OUT, f"{right:.1%} (mean score {left_out.scores.mean():.3f})"))
    if report is not None:
        lines += [
            ("set aside", len(report.set_aside)),
            ("seconds", f"{report.seconds:.1f}"),
        ]
    lines.append(("results", args.out))
    terminal.fields(lines)
