"""`anyregion serve`: the HTTP service."""

from __future__ import annotations

import argparse
import json
import os
import socket
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FAILED, FINE
from anyregion.errors import AnyRegionError, InputError, require
from anyregion.files import read_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyregion.recognizer import Recognizer
    from anyregion.serve.app import ModelOptions
    from anyregion.serve.options import ServeOptions
    from anyregion.serve.project.imports import Import

EXAMPLE = """\
anyregion serve --vocabularies my-vocabularies
anyregion serve --vocabulary "cat, dog" --port 9000
curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8750/v1/images
curl -H 'Content-Type: application/json' http://127.0.0.1:8750/v1/images/ID/regions \\
  -d '{"regions": [{"box": [12, 40, 200, 310]}], "vocabulary": ["cat", "dog"]}'

http://127.0.0.1:8750/openapi.json describes all routes; docs/guides/service.md has more

"""
TOKEN_VARIABLE = "ANYREGION_TOKEN"
LABEL_STUDIO_VARIABLE = "LABEL_STUDIO_API_KEY"
LOCAL = ("127.0.0.1", "localhost", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EXAMPLE + (parser.epilog or "")
    parser.add_argument(
        "--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1: this machine)"
    )
    parser.add_argument("--port", type=int, default=8750, help="default: 8750")
    parser.add_argument(
        "--vocabulary",
        metavar="NAMES_OR_FILE",
        help="what regions are named by where a request says nothing (default: the model's names)",
    )
    parser.add_argument(
        "--vocabularies",
        type=Path,
        metavar="DIR",
        help="keep vocabularies, and what they are taught, in this folder (default: in memory)",
    )
    group = parser.add_argument_group("the page")
    group.add_argument(
        "--project",
        type=Path,
        metavar="DIR",
        help="open a page at the service's address, and keep the work on it in this folder: "
        "photographs that are dropped, regions, names, and what they teach",
    )
    group.add_argument(
        "--photographs",
        type=Path,
        metavar="DIR",
        help="a folder whose photographs are in the project, where they lie",
    )
    group.add_argument(
        "--regions",
        type=Path,
        metavar="FILE",
        help="regions of the project's photographs, as for recognize: annotations, a queue.json, a "
        "run's predictions.json. They come without names; the categories join the words. Each is "
        "added once, also when the service starts again",
    )
    shared.add_layout_argument(group, "--regions-format", "--regions")
    group.add_argument(
        "--use-masks", action="store_true", help="use the masks of --regions as prompts too"
    )
    group.add_argument(
        "--named",
        action="store_true",
        help="the categories of --regions are what a person said: they are learnt from",
    )
    group.add_argument(
        "--index",
        type=Path,
        metavar="INDEX",
        help="an index (of anyregion index --features) that has the photographs of --regions: they "
        "are in the project where they lie, and what the index has of a region is not looked at "
        "again",
    )
    group = parser.add_argument_group("Label Studio (docs/guides/label_studio.md)")
    group.add_argument(
        "--label-studio-url",
        metavar="URL",
        help="its address: images of its tasks are fetched there, and nowhere else",
    )
    group.add_argument(
        "--label-studio-token-file",
        type=Path,
        metavar="FILE",
        help=f"a file with a token of a user of it (or set {LABEL_STUDIO_VARIABLE})",
    )
    group.add_argument(
        "--label-studio-files",
        type=Path,
        metavar="DIR",
        help="the folder that it serves as /data/local-files/: images are read there",
    )
    group.add_argument(
        "--label-studio-uploads",
        type=Path,
        metavar="DIR",
        help="the folder of its uploads (media/upload in its data folder): images are read there",
    )
    group = parser.add_argument_group("who may ask")
    group.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name under which the service may be addressed; may be repeated",
    )
    group.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a web page's origin (https://...) that may use it from a browser; may be repeated",
    )
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the token that requests must have (or set {TOKEN_VARIABLE})",
    )
    group = parser.add_argument_group("how much")
    group.add_argument(
        "--processes",
        type=shared.positive,
        default=1,
        metavar="N",
        help="processes with a model each; they share the files of images and --vocabularies",
    )
    for flag, default, what in (
        ("--max-body", 32, "megabytes of a request"),
        ("--max-pixels", 100, "millions of pixels of an image"),
        ("--image-memory", 512, "megabytes of encoded images that stay in memory"),
        ("--upload-space", 4096, "megabytes of image files that stay on disk while it runs"),
    ):
        group.add_argument(
            flag, type=shared.positive, default=default, metavar="N",
            help=f"{what} (default: {default})",
        )  # fmt: skip
    for flag, default, what in (
        ("--max-regions", 2000, "regions of a request"),
        ("--max-names", 20_000, "names of a request"),
        ("--queue", 64, "requests that may wait; more are answered with 429"),
        ("--timeout", 60, "seconds for a request and its answer"),
    ):
        group.add_argument(
            flag, type=shared.positive, default=default, metavar="N",
            help=f"{what} (default: {default})",
        )  # fmt: skip
    shared.add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it; what was begun is answered first."""
    require("serve", "starlette", "uvicorn")
    import tempfile

    import uvicorn

    from anyregion.cli import terminal
    from anyregion.serve.app import OPTIONS_VARIABLE, create_app

    if args.score is not None:
        raise InputError("--score: each request says its own")
    content, load = _content(args)
    model, options = _model(args), _options(args)
    if args.project is not None and args.processes > 1:
        raise InputError("--project: one process at a time works in a project")
    if args.project is not None and options.token is not None:
        raise InputError(
            "--project: the page has no place for a token yet: start it without --token-file and "
            f"{TOKEN_VARIABLE}, or behind a proxy that asks who it is"
        )
    if args.project is None and content is not None:
        raise InputError("--regions needs a project, in which they are kept")
    if args.photographs is not None and not args.photographs.is_dir():
        raise InputError(f"{args.photographs}: there is no such folder of photographs")
    if args.host not in LOCAL and options.token is None:
        terminal.note(
            f"warning: everybody who reaches {args.host}:{args.port} may use this service: "
            f"--token-file or {TOKEN_VARIABLE} asks for a token"
        )
    _check_address(args.host, args.port)
    settings: dict[str, Any] = {
        "host": args.host,
        "port": args.port,
        "log_level": "warning",
        "access_log": False,  # it has addresses and paths in it; `Guard` logs less
        "server_header": False,
        "timeout_graceful_shutdown": args.timeout,
        "h11_max_incomplete_event_size": 64 * 1024,
        "limit_concurrency": 1024,
    }
    terminal.note(f"http://{_in_url(args.host)}:{args.port} (Ctrl-C ends it)")
    try:
        if args.processes == 1:
            app = create_app(load or model.load, options, content)
            server = uvicorn.Server(uvicorn.Config(app, **settings))
            server.run()
            return FINE if server.started else FAILED
        with tempfile.TemporaryDirectory(prefix="anyregion-") as folder:
            stated = {**asdict(options), "uploads": str(options.uploads or Path(folder) / "images")}
            stated["folder"] = None if options.folder is None else str(options.folder.resolve())
            stated["project"] = stated["photographs"] = None
            for key in ("files", "uploads"):
                place = getattr(options.label_studio, key)
                stated["label_studio"][key] = None if place is None else str(place.resolve())
            os.environ[OPTIONS_VARIABLE] = json.dumps({"model": asdict(model), "options": stated})
            uvicorn.run(
                "anyregion.serve.app:from_environment",
                factory=True,
                workers=args.processes,
                **settings,
            )
    except KeyboardInterrupt:
        pass  # uvicorn has answered what was begun, and raises the signal again
    except SystemExit:
        return FAILED  # it has said why; its own code, 3, would say that something was set aside
    return FINE


def _check_address(host: str, port: int) -> None:
    """Refuse an address where nobody can listen, before a model is loaded.

    Raises:
        AnyRegionError: another program listens there, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except (OSError, OverflowError) as error:
        # `strerror` has the address in it, too
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else error
        raise AnyRegionError(
            f"{host}:{port}: cannot listen there ({reason}): --port and --host choose another place"
        ) from None


def _content(
    args: argparse.Namespace,
) -> tuple[Import | None, Callable[[], Recognizer] | None]:
    """What the project is begun with, and what loads the model of `--index`."""
    if args.regions is None:
        for flag in ("index", "named", "use_masks"):
            if getattr(args, flag):
                raise InputError(f"--{flag.replace('_', '-')} needs --regions")
        return None, None
    from anyregion.io.regions import load_regions
    from anyregion.serve.project.imports import Import

    file = load_regions(
        args.regions, masks=args.use_masks, images=args.photographs, layout=args.regions_format
    )
    if args.index is None:
        return Import(file, args.named, args.photographs), None
    if args.photographs is not None or args.use_masks:
        raise InputError("--index brings its photographs, and regions as boxes: leave "
                         "--photographs and --use-masks out")  # fmt: skip
    from anyregion.index import RegionIndex, table_of_images

    index = RegionIndex.open(args.index)
    names = [str(entry.file_name) for entry in file.images.values() if entry.file_name]
    content = Import(file, args.named, Path(index.manifest.root), table_of_images(index, names))
    return content, partial(index.load_recognizer, args.device)


def _model(args: argparse.Namespace) -> ModelOptions:
    from anyregion.serve.app import ModelOptions

    return ModelOptions(
        model=args.model,
        method=args.method,
        localizer=args.localizer,
        vlm=args.vlm,
        antialias=False if args.no_antialias else None,
        device=args.device,
        dtype=args.dtype,
        tiles=args.tiles,
        fast=args.fast,
    )


def _options(args: argparse.Namespace) -> ServeOptions:
    from anyregion.serve.options import MEBIBYTE, LabelStudioOptions, ServeOptions

    key = _secret(args.label_studio_token_file, LABEL_STUDIO_VARIABLE)
    for folder in (args.label_studio_files, args.label_studio_uploads):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder")
    return ServeOptions(
        host=_in_url(args.host),
        port=args.port,
        allowed_hosts=tuple(args.allow_host),
        allowed_origins=tuple(args.allow_origin),
        token=_secret(args.token_file, TOKEN_VARIABLE),
        vocabulary=args.vocabulary,
        folder=args.vocabularies,
        project=args.project,
        photographs=args.photographs,
        max_body=args.max_body * MEBIBYTE,
        max_pixels=args.max_pixels * 1_000_000,
        max_regions=args.max_regions,
        max_names=args.max_names,
        image_memory=args.image_memory * MEBIBYTE,
        upload_space=args.upload_space * MEBIBYTE,
        queue=args.queue,
        batch=args.batch_size,
        timeout=float(args.timeout),
        label_studio=LabelStudioOptions(
            url=args.label_studio_url,
            key=key,
            files=args.label_studio_files,
            uploads=args.label_studio_uploads,
        ),
    )


def _secret(path: Path | None, variable: str) -> str | None:
    """A token from a file or the environment."""
    if path is None:
        return os.environ.get(variable, "").strip() or None
    token = read_text(path).strip()
    if not token:
        raise InputError(f"{path}: there is no token in it")
    return token


def _in_url(host: str) -> str:
    """IPv6 addresses stand in brackets there, and in `Host`."""
    return f"[{host}]" if ":" in host else host
