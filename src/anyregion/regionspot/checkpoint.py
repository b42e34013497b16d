"""RegionSpot's published checkpoints: read safely, loaded as they are, or converted to folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anyregion.errors import CheckpointError, InputError
from anyregion.localizers.checkpoint import sam_model_from_state
from anyregion.localizers.sam import SamBackend
from anyregion.localizers.segmenter import LocalizerOptions, PromptableSegmenter
from anyregion.regionspot.adapter import AdapterConfig
from anyregion.regionspot.encoder import RegionSpotEncoder
from anyregion.regionspot.pretrained import Pretrained, adapter_from_state, write_folder
from anyregion.torch_utils.weights import read_state_dict, write_tensors
from anyregion.vlms.openai_clip import clip_from_openai_state_dict
from anyregion.vlms.protocol import VlmOptions

# of the published weights, and so of every folder converted from them
PUBLISHED_LICENCE = "CC-BY-NC-4.0"
# the published weights: widths of the feature map and the words -> the CLIP they were trained with
_CLIP_OF_WIDTHS = {
    (768, 512): "openai/clip-vit-base-patch16",
    (1024, 768): "openai/clip-vit-large-patch14",
}
_SAM = "facebook/sam-vit-base"


@dataclass(frozen=True, eq=False)
class RegionSpotCheckpoint:
    """The parts of a published checkpoint, each a state dict without its prefix.

    Attributes:
        adapter: `to_clip.*`, `decoder.*`, `projector.*`.
        sam: in segment-anything's names; None where it was stripped.
        clip: in OpenAI CLIP's names; None where it was stripped.
    """

    adapter: dict[str, Tensor]
    sam: dict[str, Tensor] | None
    clip: dict[str, Tensor] | None

    def adapter_config(self) -> AdapterConfig:
        """Sizes as the tensors state them; heads and the rest as published."""
        width, token = self.adapter["to_clip.weight"].shape
        # heads and dropout leave no trace in the tensors: the published ones are the defaults
        layers = {int(n.split(".")[2]) for n in self.adapter if n.startswith("decoder.layers.")}
        return AdapterConfig(
            token_width=token,
            feature_width=width,
            embed_width=self.adapter["projector.weight"].shape[0],
            layers=len(layers),
            feedforward=self.adapter["decoder.layers.0.linear1.weight"].shape[0],
        )


def read_checkpoint(path: str | Path) -> RegionSpotCheckpoint:
    """Read a published checkpoint: `{"model": {"model.<part>...": tensor}}`.

    Only tensors are unpickled (`weights_only`); a file that carries anything else is refused.

    Raises:
        CheckpointError: missing, truncated, with pickled code, or of another layout.
    """
    state = read_state_dict(path)
    parts: dict[str, dict[str, Tensor]] = {"adapter": {}, "sam": {}, "clip_model": {}}
    unknown: list[str] = []
    for name, tensor in state.items():
        part, _, rest = name.removeprefix("model.").partition(".")
        if part in ("sam", "clip_model"):
            parts[part][rest] = tensor
        elif part in ("to_clip", "decoder", "projector"):
            parts["adapter"][f"{part}.{rest}"] = tensor
        else:
            unknown.append(name)
    needed = ("to_clip.weight", "projector.weight", "decoder.layers.0.linear1.weight")
    missing = [name for name in needed if name not in parts["adapter"]]
    if missing or unknown:
        raise CheckpointError(
            f"{path}: not RegionSpot's layout: missing {missing}, unknown {unknown[:4]}"
            + (f" and {len(unknown) - 4} more" if len(unknown) > 4 else "")
        )
    return RegionSpotCheckpoint(parts["adapter"], parts["sam"] or None, parts["clip_model"] or None)


def load_published(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    image_size: int | None = None,
    antialias: bool = True,
) -> RegionSpotEncoder:
    """A full published checkpoint as an encoder, with the SAM and the CLIP that it carries.

    Raises:
        CheckpointError: as `read_checkpoint`; or SAM and CLIP were stripped (then convert it, and
            name them there).
        InputError: a device that is not here.
    """
    sam_options = LocalizerOptions(device=device, encoder_dtype=dtype)
    vlm_options = VlmOptions(device=device, image_size=image_size, dtype=dtype)
    parts, name = read_checkpoint(path), str(path)
    if parts.sam is None or parts.clip is None:
        raise CheckpointError(f"{path}: holds the adapter only; use `anyregion convert` first")
    sam = sam_model_from_state(parts.sam, name=name)
    return RegionSpotEncoder(
        PromptableSegmenter(SamBackend, sam, name=name, options=sam_options),
        clip_from_openai_state_dict(parts.clip, name, vlm_options),
        adapter_from_state(parts.adapter, parts.adapter_config(), name).to(device),
        antialias=antialias,
    )


def convert_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    localizer: str | None = None,
    vlm: str | None = None,
    image_size: int | None = None,
) -> Pretrained:
    """Turn a published checkpoint into a folder for `from_pretrained`.

    The SAM and CLIP that a full checkpoint carries are written beside the adapter, so the folder
    needs no hub; with `localizer` and `vlm` the named ones are used in their place.

    Args:
        checkpoint: full, or adapter only.
        out: the folder to make.
        localizer, vlm: hub names, folders or files; for an adapter-only checkpoint the published
            SAM ViT-B and the CLIP of the same widths unless given.
        image_size: side of CLIP's input where it is not the model's own (336 for L/14@336 weights
            on a 224 model).

    Raises:
        CheckpointError: as `read_checkpoint`; or no published CLIP has these widths.
        InputError: `out` is a file.
        AnyRegionError: `out` cannot be written.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: not a folder")
    parts = read_checkpoint(checkpoint)
    config = parts.adapter_config()
    adapter_from_state(parts.adapter, config, str(checkpoint))  # refuses wrong sizes
    origin = f"converted from {checkpoint.name}"
    metadata = {"origin": origin, "licence": PUBLISHED_LICENCE}
    if localizer is None and parts.sam is not None:
        localizer = "localizer.safetensors"
        write_tensors(out / localizer, parts.sam, metadata)
    if vlm is None and parts.clip is not None:
        vlm = "vlm.safetensors"
        write_tensors(out / vlm, parts.clip, metadata)
    if vlm is None:
        vlm = _CLIP_OF_WIDTHS.get((config.feature_width, config.embed_width))
        if vlm is None:
            raise CheckpointError(
                f"{checkpoint}: no published CLIP has a feature map {config.feature_width} wide "
                f"and words {config.embed_width} wide: name the VLM it was trained with"
            )
    pretrained = Pretrained(
        adapter=config,
        localizer=localizer or _SAM,
        vlm=vlm,
        vlm_image_size=image_size,
        licence=PUBLISHED_LICENCE,
        origin=origin,
    )
    write_folder(out, pretrained, parts.adapter)
    return pretrained
