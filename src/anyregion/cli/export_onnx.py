"""`anyregion export-onnx`: a RegionSpot as ONNX graphs that need no torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli.exit_codes import FINE

if TYPE_CHECKING:
    from anyregion.exported.folder import ExportedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a RegionSpot's folder or published checkpoint; with --int8 also a folder that this "
        "command wrote",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--localizer", metavar="NAME", help="its SAM, if not as it states")
    parser.add_argument("--vlm", metavar="NAME", help="its CLIP, if not as it states")
    parser.add_argument(
        "--int8", action="store_true", help="8-bit weights: a quarter of the size, other answers"
    )


def run(args: argparse.Namespace) -> int:
    """Export, and say how it is opened."""
    import tempfile

    from anyregion.cli import terminal
    from anyregion.errors import InputError, require
    from anyregion.exported.folder import CONFIG
    from anyregion.exported.quantize import quantize
    from anyregion.factory import uses_localizer

    require("train", "onnx")
    if (args.model / CONFIG).is_file():
        if not args.int8:
            raise InputError(f"{args.model} is exported already; --int8 makes 8-bit weights of it")
        model = quantize(args.model, args.out)
    elif not uses_localizer(args.model):
        if not args.model.exists() and str(args.model) != "compact":
            raise InputError(
                f"{args.model}: there is no such file or folder; what can be exported is a "
                "RegionSpot's folder or checkpoint (a VLM alone has no trained head)"
            )
        raise InputError(
            f"{args.model}: compact, trained or not, is ONNX already and needs no torch, and a VLM "
            "alone has no trained head: a RegionSpot is what can be exported"
        )
    elif args.int8:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".onnx-") as folder:
            _export(args, Path(folder))
            model = quantize(Path(folder), args.out)
    else:
        model = _export(args, args.out)
    size = sum(file.stat().st_size for file in args.out.glob("*.onnx"))
    texts = "in the folder" if model.has_text else "none: encoded vocabularies only"
    terminal.fields(
        [
            ("written", args.out),
            ("from", model.name),
            ("weights", "8-bit integers" if model.int8 else "float32"),
            ("size", f"{size / 1e6:.0f} MB"),
            ("text side", texts),
            ("opened by", f"load_recognizer({str(args.out)!r}), without torch"),
        ]
    )
    return FINE


def _export(args: argparse.Namespace, folder: Path) -> ExportedModel:
    from anyregion.errors import require

    require("train", "torch", "transformers", "onnx", "onnxscript")
    from anyregion.factory import load_recognizer
    from anyregion.regionspot.encoder import RegionSpotEncoder
    from anyregion.regionspot.export import export_onnx

    recognizer = load_recognizer(
        args.model, method="regionspot", localizer=args.localizer, vlm=args.vlm
    )
    encoder = recognizer.encoder
    assert isinstance(encoder, RegionSpotEncoder)  # which `uses_localizer` was about
    return export_onnx(encoder, folder, card=recognizer.card, vocabulary=recognizer.vocabulary)
