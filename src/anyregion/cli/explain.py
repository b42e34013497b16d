"""`anyregion explain`: where a region looked when it was named, and what its answer is made of."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE
from anyregion.cli.recognize import PointGroup, parse_box, parse_points

if TYPE_CHECKING:
    from anyregion.explain import Explanation
    from anyregion.regions import Regions

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
WRITES = """\
what is printed:
  the best names with their scores; of compact, what each name's cosine is the sum of (ConSE's part,
  which needs no training, the trained head's, and what calibrated stacking added), and the ImageNet
  classes that ConSE's part of the best name came from
Attention shows where a region looked, not why it was named so.

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = WRITES + (parser.epilog or "")
    parser.add_argument("image", metavar="PHOTO", help="one image")
    where = parser.add_argument_group("the region (pixels of the upright image)")
    where.add_argument(
        "--box", action="append", type=parse_box, metavar="x0,y0,x1,y1", help="its box"
    )
    where.add_argument(
        "--point",
        action="append",
        type=parse_points,
        metavar="x,y",
        help="a point in it, in place of a box or beside it; several: 'x,y;x,y,0', where the label "
        "0 marks a point outside",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="NAMES_OR_FILE",
        help="as for recognize; needed unless --exemplars shows what to name, or --model is a "
        "folder that knows its names",
    )
    shared.add_vocabulary_arguments(parser)
    shared.add_model_arguments(parser)
    parser.add_argument(
        "--precision", type=float, metavar="P", help="of a taught vocabulary, as for recognize"
    )
    parser.add_argument(
        "--top-k",
        type=shared.positive,
        default=5,
        metavar="K",
        help="names that are explained (default: 5)",
    )
    parser.add_argument(
        "--layer",
        type=shared.positive,
        metavar="N",
        help="whose attention is shown, from 1 (default: the last)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("explanation.png"),
        metavar="PICTURE",
        help="the attention over the image (default: explanation.png)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers")


def run(args: argparse.Namespace) -> int:
    """Name the region, draw its attention and say what the answer is made of."""
    from anyregion.cli import terminal
    from anyregion.drawing.attention import draw_explanation
    from anyregion.errors import InputError
    from anyregion.explain import explain
    from anyregion.files import atomic_path, write_json, writing
    from anyregion.images import read_image
    from anyregion.vocabulary import Vocabulary

    if args.box is None and args.point is None:
        raise InputError("no region: give --box x0,y0,x1,y1 or --point x,y")
    if args.out.suffix.lower() not in _FORMATS:
        raise InputError(f"{args.out}: a picture ends in {', '.join(_FORMATS)}")
    if args.json is not None and args.json.resolve() == args.out.resolve():
        raise InputError(f"{args.json}: --json and --out are one file")
    # `recognize` takes several: here all but the last would be forgotten without a word
    for flag, given in (("--box", args.box), ("--point", args.point)):
        if given is not None and len(given) > 1:
            more = "; several points of it: 'x,y;x,y'" if flag == "--point" else ""
            raise InputError(f"one region is explained at a time: give {flag} once{more}")
    region = _region(*(given and given[0] for given in (args.box, args.point)))
    vocabulary = shared.read_vocabulary(args)
    listed = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
    terminal.warn_list("names left out of the vocabulary", listed.set_aside)
    if len(listed.names) == 1 and getattr(vocabulary, "classifier", None) is None:
        shared.warn_one_name(args)
    pixels = read_image(args.image)
    recognizer = shared.recognizer_loader(args)()
    explanation = explain(
        recognizer,
        pixels,
        region,
        vocabulary,
        top_k=args.top_k,
        score=args.score,
        layer=-1 if args.layer is None else args.layer - 1,
    )
    with writing(args.out), atomic_path(args.out) as temporary:
        draw_explanation(pixels, explanation).save(temporary, _FORMATS[args.out.suffix.lower()])
    if args.json is not None:
        write_json(args.json, {"image": args.image, **explanation.to_dict()})
    _print(explanation)
    print()
    terminal.fields(
        [
            ("model", explanation.model),
            ("vocabulary", shared.count_names(len(listed.names), args.vocabulary or "")),
            ("picture", args.out),
            *([("numbers", args.json)] if args.json is not None else []),
        ]
    )
    return FINE


def _print(explanation: Explanation) -> None:
    from anyregion.cli import terminal

    parts = {} if explanation.parts is None else explanation.parts.cosines
    rows = zip(explanation.labels, explanation.scores, explanation.cosines, strict=True)
    terminal.table(
        ("name", explanation.score, "cosine", *(f"= {part}" for part in parts)),
        (
            (name, f"{score:.3f}", f"{cosine:.3f}", *(f"{v[i]:+.3f}" for v in parts.values()))
            for i, (name, score, cosine) in enumerate(rows)
        ),
        numbers=tuple(range(1, 3 + len(parts))),
    )
    if explanation.classes:
        print(f"\nImageNet classes that ConSE's part of {explanation.labels[0]!r} came from")
        terminal.table(
            ("class", "probability", "adds"),
            (
                (part.name, f"{part.probability:.3f}", f"{part.cosines[0]:+.3f}")
                for part in explanation.classes
            ),
            numbers=(1, 2),
        )
    print()
    if explanation.margin is not None:
        print(f"- {explanation.labels[0]!r} is ahead by {explanation.margin:.3f}")
    for sentence in explanation.sentences():
        print(f"- {sentence}")


def _region(box: list[float] | None, group: PointGroup | None) -> Regions:
    from anyregion.regions import Regions

    points, labels = group or (None, None)
    region = Regions.from_prompts(
        boxes=[[float("nan")] * 4 if box is None else box],
        points=[points],
        point_labels=[labels],
    )
    region.refuse_fractions()
    return region
