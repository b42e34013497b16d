"""The folder that `anyregion export-onnx` writes: its graphs, and the settings they run with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anyregion.errors import CheckpointError
from anyregion.files import read_json, write_json

CONFIG = "onnx.json"
FORMAT = "anyregion.onnx/1"
LOCALIZER_IMAGE = "localizer_image.onnx"
LOCALIZER_TOKENS = "localizer_tokens.onnx"
LOCALIZER_MASKS = "localizer_masks.onnx"
VLM_IMAGE = "vlm_image.onnx"
HEAD = "head.onnx"
TEXT = "text.onnx"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What `onnx.json` states.

    Attributes:
        name: what people call the model.
        int8: whether the weights of the products are 8-bit integers.
        side: of the localizer's square input, in pixels.
        localizer_mean, localizer_std: of its input, RGB from 0 to 255.
        image_size: side of the VLM's square input.
        vlm_mean, vlm_std: of its input, RGB from 0 to 1.
        antialias: whether images are squashed for the VLM with antialiasing.
        grid: `(h, w)` cells, the last rows of the feature map.
        token_width, embed_width: of the localizer's tokens and of the words.
        logit_scale, logit_bias: turn a cosine into a logit, as the head's graph does.
        templates: the prompts that the names are encoded with.
        text_fingerprint: of the text side; an encoded vocabulary of another one is refused.
        has_text: whether the text side is in the folder; else only encoded vocabularies serve.
        unknown_piece: the tokenizer's id of what it cannot spell; None where it spells everything.
    """

    name: str
    int8: bool
    side: int
    localizer_mean: tuple[float, ...]
    localizer_std: tuple[float, ...]
    image_size: int
    vlm_mean: tuple[float, ...]
    vlm_std: tuple[float, ...]
    antialias: bool
    grid: tuple[int, int]
    token_width: int
    embed_width: int
    logit_scale: float
    logit_bias: float
    templates: tuple[str, ...]
    text_fingerprint: str
    has_text: bool
    unknown_piece: int | None

    def save(self, folder: Path) -> None:
        """Write `onnx.json`."""
        write_json(folder / CONFIG, {"format": FORMAT, **asdict(self)}, indent=2)


def read_exported(folder: Path) -> ExportedModel:
    """Read `onnx.json`.

    Raises:
        CheckpointError: missing, of another format, or malformed.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {CONFIG}: not a folder made by anyregion export-onnx")
    content: Any = read_json(path)
    try:
        fields = dict(content)
        if fields.pop("format") != FORMAT:
            raise CheckpointError(f"{path}: format {content['format']!r}, expected {FORMAT!r}")
        # JSON has lists where the fields are tuples
        tuples: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return ExportedModel(**tuples)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: malformed ({error})") from None
