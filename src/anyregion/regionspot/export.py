"""A RegionSpot written as ONNX graphs, which `anyregion.exported` runs without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from anyregion.errors import InputError
from anyregion.exported.folder import (
    CONFIG,
    HEAD,
    LOCALIZER_IMAGE,
    LOCALIZER_MASKS,
    LOCALIZER_TOKENS,
    TEXT,
    TOKENIZER,
    VLM_IMAGE,
    ExportedModel,
)
from anyregion.files import write_text, writing
from anyregion.model_card import ModelCard, write_card
from anyregion.regionspot.encoder import RegionSpotEncoder
from anyregion.regionspot.graphs import (
    HeadGraph,
    LocalizerImageGraph,
    PromptGraph,
    TextGraph,
    VlmImageGraph,
    is_sam,
)
from anyregion.torch_utils.onnx import Graph, Shapes, trace, with_outputs, write_graph
from anyregion.vlms.clip import ClipTower
from anyregion.vlms.model import FrozenVLM
from anyregion.vlms.text import BatchedTextEncoder
from anyregion.vocabulary import Vocabulary

_README = """# {name}, as ONNX graphs

`anyregion recognize PHOTO --model FOLDER` runs them without torch;
`docs/reference/onnx.md` of anyregion says what goes in and what comes out.
"""


def export_onnx(
    encoder: RegionSpotEncoder,
    folder: Path,
    *,
    card: ModelCard | None = None,
    vocabulary: Vocabulary | None = None,
) -> ExportedModel:
    """Write the graphs of a RegionSpot, its settings, its names and its card.

    Args:
        encoder: of SAM and a CLIP of `transformers` or of OpenAI's layout, on the CPU.
        folder: made if it is missing.
        card, vocabulary: as for `Recognizer.save_pretrained`.

    Returns:
        What `onnx.json` states.

    Raises:
        InputError: models, or settings of theirs, that have no graph; a graph above 2 GiB.
        AnyRegionError: the folder cannot be written.
    """
    segmenter, vlm, tower = _check(encoder)
    text: Any = vlm.text
    with_text = isinstance(text, BatchedTextEncoder) and text.tokenizer.to_json is not None
    with_text = with_text and isinstance(text.forward, nn.Module)
    model = ExportedModel(
        name=encoder.name,
        int8=False,
        side=segmenter.backend.model.config.vision_config.image_size,
        localizer_mean=tuple(segmenter.backend.mean),
        localizer_std=tuple(segmenter.backend.std),
        image_size=vlm.image_size,
        vlm_mean=tuple(vlm.vision.mean),
        vlm_std=tuple(vlm.vision.std),
        antialias=encoder.antialias,
        grid=vlm.vision.grid,
        token_width=segmenter.token_width,
        embed_width=vlm.embed_width,
        logit_scale=encoder.logit_scale,
        logit_bias=encoder.logit_bias,
        templates=tuple(text.templates),
        text_fingerprint=text.fingerprint,
        has_text=with_text,
        unknown_piece=text.tokenizer.unknown if with_text else None,
    )
    files = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)  # until all is whole it is no model
        for name, graph, example, shapes in _graphs(encoder, segmenter, tower, model):
            with torch.no_grad():
                traced = trace(graph, example, shapes)
            write_graph(traced, folder / name)
            files.append(name)
            if name == LOCALIZER_MASKS:
                # masks cost several times what tokens do, and names need tokens alone
                tokens = with_outputs(traced, ["tokens", "scores"])
                write_graph(tokens, folder / LOCALIZER_TOKENS)
                files.append(LOCALIZER_TOKENS)
        if with_text:
            write_text(folder / TOKENIZER, text.tokenizer.to_json())
            files.append(TOKENIZER)
        readme = _README.format(name=model.name)
        write_card(folder, card or ModelCard(), weights=files, vocabulary=vocabulary, readme=readme)
        model.save(folder)
    return model


def _check(encoder: RegionSpotEncoder) -> tuple[Any, FrozenVLM, ClipTower]:
    """The localizer, the VLM and its image side, if they have graphs."""
    segmenter, vlm = encoder.localizer, encoder.vlm
    if not is_sam(segmenter):
        raise InputError(f"{segmenter.name}: of the localizers only SAM can be exported to ONNX")
    if not isinstance(vlm, FrozenVLM) or not isinstance(vlm.vision, ClipTower):
        raise InputError(f"{vlm.name}: of the VLMs only CLIP's ViTs can be exported to ONNX")
    if encoder.source != "decoder" or not encoder.adapter.config.use_features:
        raise InputError(
            "the ablations (source prompt, use_features false) cannot be exported to ONNX"
        )
    return segmenter, vlm, vlm.vision


def _graphs(
    encoder: RegionSpotEncoder, segmenter: Any, tower: ClipTower, model: ExportedModel
) -> Iterator[tuple[str, Graph, tuple[torch.Tensor, ...], Shapes]]:
    """Each graph: its file, module, an example of its inputs, and which axes vary."""

    def axis(name: str) -> Any:
        return Dim(name, min=1, max=65536)

    fixed: dict[int, Any] = {}
    side, size = model.side, model.image_size
    square = (torch.zeros(1, 3, side, side),)
    yield LOCALIZER_IMAGE, LocalizerImageGraph(segmenter), square, (fixed,)
    height, width = segmenter.backend.model.prompt_encoder.image_embedding_size
    prompted = (
        torch.rand(1, model.token_width, height, width),
        side * torch.rand(3, 4, 2),
        torch.tensor([[0, 1, 2, 3]] * 3),
    )
    varied = {0: axis("prompts"), 1: axis("points")}
    yield LOCALIZER_MASKS, PromptGraph(segmenter), prompted, (fixed, varied, varied)
    yield VLM_IMAGE, VlmImageGraph(tower), (torch.zeros(1, 3, size, size),), (fixed,)
    features = tower.tokens(torch.zeros(1, 3, size, size))[0]  # (T, D)
    head = HeadGraph(encoder.adapter, scale=encoder.logit_scale, bias=encoder.logit_bias)
    example = (torch.rand(3, model.token_width), features, torch.rand(5, model.embed_width))
    yield HEAD, head, example, ({0: axis("regions")}, fixed, {0: axis("names")})
    if model.has_text:
        text: Any = encoder.text
        ids = text.tokenizer.encode(["a photo of a cat.", "dog", "a traffic light"])[:, :16]
        yield TEXT, TextGraph(text.forward), (ids,), ({0: axis("texts"), 1: axis("pieces")},)
