"""Models of `open_clip`: CLIP, SigLIP, CoCa with its own ViTs, ResNets, and `timm` towers."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from anyregion.errors import CheckpointError, InputError
from anyregion.files import read_json
from anyregion.torch_utils.hub import warn_of_fetch
from anyregion.torch_utils.weights import read_state_dict
from anyregion.vlms.model import FrozenVLM, VisionTower
from anyregion.vlms.open_clip_towers import ResNetTower, TimmTower, VitTower, describe_layers
from anyregion.vlms.protocol import VlmOptions
from anyregion.vlms.text import (
    CLIP_TEMPLATES,
    SIGLIP_TEMPLATES,
    BatchedTextEncoder,
    Tokenizer,
    first_of,
    largest,
    tokenizer_hash,
    unknown_piece,
)

_OPEN_CLIP_ERRORS = (
    RuntimeError, OSError, ValueError, KeyError, AttributeError, EOFError, AssertionError,
    pickle.UnpicklingError, SafetensorError,
)  # fmt: skip


def load_open_clip(name: str, pretrained: str | None, options: VlmOptions) -> FrozenVLM:
    """A model of `open_clip` by its name and the tag or file of its weights.

    Args:
        name: as `open_clip.list_models()` has it (`ViT-B-16`), or `hf-hub:OWNER/MODEL`, or
            `local-dir:FOLDER`; the last two bring their weights.
        pretrained: a tag (`laion2b_s34b_b88k`) or a local checkpoint.

    Raises:
        InputError: an unknown name or tag, or the hub cannot be reached.
        CheckpointError: broken weights, pickled code, or weights of another architecture.
    """
    import open_clip

    if pretrained is None and not name.startswith(("hf-hub:", "local-dir:")):
        tags = [tag for model, tag in open_clip.list_pretrained() if model == name]
        raise InputError(
            f"open_clip:{name}: say which weights, a tag or a file"
            + (f": {', '.join(tags)}" if tags else "; and there is no such model")
        )
    full_name = f"open_clip:{name}" + ("" if pretrained is None else f"/{pretrained}")
    is_file = pretrained is not None and Path(pretrained).is_file()
    try:
        _warn_of_text_model(name)
        model = open_clip.create_model(name, pretrained, require_pretrained=True, weights_only=True)
        tokenizer = open_clip.get_tokenizer(name)
    # unknown names, failed downloads and weights that do not fit come as these, without order
    except _OPEN_CLIP_ERRORS as error:
        reason = str(error).strip().split("\n", 1)[0][:300]
        if is_file:
            read_state_dict(str(pretrained))  # says what is wrong with the file itself
            wrong = f"weights of another architecture ({reason})"
            raise CheckpointError(f"{full_name}: {wrong}") from None
        raise InputError(
            f"{full_name}: {reason}. Check name, tag and connection, or give a local checkpoint"
        ) from None
    return wrap_open_clip(model, tokenizer, full_name, options)


def _warn_of_text_model(name: str) -> None:
    """Say which other models the configuration of a folder or a hub's model would fetch."""
    source, _, place = name.partition(":")
    path = Path(place, "open_clip_config.json")
    if source == "hf-hub":
        from open_clip.pretrained import download_pretrained_from_hf

        path = Path(download_pretrained_from_hf(place, filename=path.name))
    elif source != "local-dir":
        return
    text = read_json(path).get("model_cfg", {}).get("text_cfg", {})
    for other in sorted({text.get("hf_model_name"), text.get("hf_tokenizer_name")} - {None, place}):
        warn_of_fetch(path, str(other))


def wrap_open_clip(model: Any, tokenizer: Any, name: str, options: VlmOptions) -> FrozenVLM:
    """A CLIP, custom-text CLIP or CoCa of `open_clip`, taken over and fitted to `image_size`.

    Raises:
        InputError: an image size or an image tower that cannot be used.
    """
    model = model.requires_grad_(False).eval().to(options.device)
    bias = getattr(model, "logit_bias", None)
    return FrozenVLM(
        name=name,
        vision=_tower(model, options.image_size),
        # a sigmoid model has a bias, and SigLIP's template
        text=_text(model, tokenizer, CLIP_TEMPLATES if bias is None else SIGLIP_TEMPLATES, options),
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=0.0 if bias is None else float(bias.detach()),
        options=options,
    )


def _tower(model: Any, image_size: int | None) -> VisionTower:
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(model.visual, VisionTransformer):
        return VitTower(model, image_size)
    if isinstance(model.visual, ModifiedResNet):
        return ResNetTower(model, image_size)
    if isinstance(model.visual, TimmModel):
        return TimmTower(model, image_size)
    raise InputError(f"open_clip's {type(model.visual).__name__} is no image tower known here")


def _text(
    model: Any, tokenizer: Any, templates: tuple[str, ...], options: VlmOptions
) -> BatchedTextEncoder:
    # CLIP keeps its text side in the open, its successors in a module of its own
    side = getattr(model, "text", None) or model
    context: int = model.context_length
    inner = getattr(tokenizer, "tokenizer", None)  # of `transformers`, where it wraps one
    end_of = _end_of(side)

    def weights() -> Iterable[tuple[str, Tensor]]:
        for name, tensor in side.state_dict().items():
            if not name.startswith(("visual.", "logit_")):
                yield name, tensor

    def encode(texts: list[str]) -> Tensor:
        if not texts:
            return torch.zeros((0, context), dtype=torch.long)
        ids: Tensor = tokenizer(texts, context_length=context)
        return ids

    def describe_tokenizer() -> str:
        return type(tokenizer).__name__ if inner is None else tokenizer_hash(inner)

    def forward(ids: Tensor) -> Tensor:
        if end_of is not None:
            return _encode_cut(side, ids, end_of)
        embeddings: Tensor = model.encode_text(ids, normalize=False)
        return embeddings

    with torch.inference_mode():
        probe = torch.zeros((1, context), dtype=torch.long, device=options.device)
        width = model.encode_text(probe, normalize=False).shape[1]
    unknown = None if inner is None else unknown_piece(inner)
    return BatchedTextEncoder(
        tokenizer=Tokenizer(encode, describe_tokenizer, unknown),
        forward=forward,
        end_of=end_of,
        weights=weights,
        describe=lambda: f"open_clip {describe_tokenizer()} {context} {describe_layers(side)}",
        templates=templates,
        embed_width=width,
        options=options,
    )


def _end_of(side: Any) -> Callable[[Tensor], Tensor] | None:
    """How a causal tower finds the position it reads; None where texts must stay whole."""
    mask = getattr(side, "attn_mask", None)
    if mask is None or getattr(side, "cls_emb", None) is not None:
        return None
    if not hasattr(side, "ln_final") or not hasattr(side, "token_embedding"):
        return None
    kind = getattr(side, "text_pool_type", None) or getattr(side, "pool_type", None)
    if kind == "argmax":
        return largest
    if kind == "eos":
        end = getattr(side, "text_eos_id", None)
        return first_of(side.eos_id if end is None else end)
    return None


def _encode_cut(side: Any, ids: Tensor, end_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Embeddings `(b, E)` of ids `(b, l)`, where the model's own `encode_text` needs all 77."""
    length = ids.shape[1]
    cast = side.transformer.get_cast_dtype()
    # (b, l, D)
    x = side.token_embedding(ids).to(cast) + side.positional_embedding[:length].to(cast)
    x = side.ln_final(side.transformer(x, attn_mask=side.attn_mask[:length, :length]))
    x = x[torch.arange(len(ids), device=ids.device), end_of(ids)]  # (b, D)
    projection = side.text_projection
    if isinstance(projection, torch.nn.Linear):
        x = projection(x)
    elif projection is not None:
        x = x @ projection
    embeddings: Tensor = x
    return embeddings
