"""Export for Hugging Face: a folder that `transformers.AutoModel.from_pretrained` opens.

Plain ResNets, ConvNeXts and ViTs become `transformers`' own classes. What else timm has is opened
by its `TimmWrapperModel`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyregion.backbones.encoder import Encoder, eval_mode
from anyregion.backbones.export.common import (
    Export,
    compare_features,
    cpu_features,
    noise_image,
    rename_state,
)
from anyregion.backbones.export.torchvision_timm import (
    create_timm,
    timm_features,
    timm_name,
    timm_state,
    tokens_to_map,
)
from anyregion.backbones.key_maps import PARTS, QKV, family_of
from anyregion.errors import CheckpointError, InputError
from anyregion.files import write_json, writing
from anyregion.torch_utils.weights import write_tensors

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
CONVNEXT_EPS = 1e-6
BICUBIC = 3  # Pillow's number
Model = tuple[dict[str, Any], dict[str, Tensor]]
"""A configuration, and the weights under the keys of its class."""


def export_huggingface(encoder: Encoder, out: Path) -> Export:
    """A folder with configuration, weights and preprocessing. Raises as `export_encoder`."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file, not a folder")
    if out.is_dir() and {path.name for path in out.iterdir()} - {CONFIG, WEIGHTS, PREPROCESSOR}:
        raise InputError(f"{out}: holds something else; give another folder")
    # a class of transformers' own needs no timm where it is opened, so it comes first
    native = _native(encoder)
    if native is not None:
        try:
            return _write(encoder, out, *native)
        except CheckpointError:
            if not encoder.name.startswith("timm/"):
                raise
            # timm's variants have the names of the plain ones, but other activations or norms
    return _write(encoder, out, *_timm_wrapper(encoder))


def _write(encoder: Encoder, out: Path, config: dict[str, Any], state: dict[str, Tensor]) -> Export:
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        # beside `out`, so that moving the files there is a rename
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
            folder = Path(temporary)
            write_json(folder / CONFIG, config, indent=2)
            write_tensors(folder / WEIGHTS, state, {"format": "pt"})
            write_json(folder / PREPROCESSOR, _preprocessing(encoder), indent=2)
            difference = _check(encoder, folder, out, config["architectures"][0])
            out.mkdir(exist_ok=True)
            for name in (WEIGHTS, PREPROCESSOR, CONFIG):  # the configuration opens it: it is last
                shutil.move(folder / name, out / name)
    return Export(
        path=out,
        format="huggingface",
        architecture=config["architectures"][0],
        usage=f"transformers.AutoModel.from_pretrained({str(out)!r})",
        difference=difference,
    )


def _native(encoder: Encoder) -> Model | None:
    """For a class of `transformers`' own; None if it has none."""
    family = family_of(encoder.name.partition("/")[0], encoder.body.state_dict())
    builders = {"resnet": _resnet, "convnext": _convnext, "vit": _vit}
    if family is None or family.name not in builders:
        return None
    return builders[family.name](encoder, rename_state(encoder, "huggingface"))


def _resnet(encoder: Encoder, state: dict[str, Tensor]) -> Model | None:
    from transformers import ResNetConfig

    first = "encoder.stages.{}.layers.0.layer.{}.convolution.weight"
    bottleneck = first.format(0, 2) in state
    last = 2 if bottleneck else 1
    widths = [state[first.format(stage, last)].shape[0] for stage in range(4)]
    for stage, width in enumerate(widths):
        middle = state[first.format(stage, 1)].shape
        if bottleneck and (middle[0] != middle[1] or middle[0] * 4 != width):
            return None  # groups, or another width inside: transformers' has neither
    config = ResNetConfig(
        embedding_size=state["embedder.embedder.convolution.weight"].shape[0],
        hidden_sizes=widths,
        depths=_depths(state, "layers"),
        layer_type="bottleneck" if bottleneck else "basic",
        hidden_act="relu",
    )
    return _as_dict(config, "ResNetModel"), state


def _convnext(encoder: Encoder, state: dict[str, Tensor]) -> Model | None:
    from transformers import ConvNextConfig

    stem = state["embeddings.patch_embeddings.weight"]
    widths = [stem.shape[0]]
    widths += [state[f"encoder.stages.{s}.downsampling_layer.1.weight"].shape[0] for s in (1, 2, 3)]
    inner = state["encoder.stages.0.layers.0.pwconv1.weight"]
    norms = [m for m in encoder.body.modules() if isinstance(m, nn.LayerNorm)]
    # transformers has the linear layers of the published model; timm's small variants have 1 x 1
    # convolutions in their place
    if inner.ndim != 2 or inner.shape[0] != 4 * widths[0] or not _plain_gelu(encoder):
        return None
    if any(norm.eps != CONVNEXT_EPS for norm in norms):
        return None  # it is not a setting of transformers' blocks
    config = ConvNextConfig(
        patch_size=stem.shape[-1],
        hidden_sizes=widths,
        depths=_depths(state, "layers"),
        image_size=encoder.size,
        layer_norm_eps=CONVNEXT_EPS,
    )
    # ConvNextModel has a norm behind its pooling that belongs to a classifier: it does nothing
    neutral = {
        "layernorm.weight": torch.ones(widths[-1]),
        "layernorm.bias": torch.zeros(widths[-1]),
    }
    return _as_dict(config, "ConvNextModel"), state | neutral


def _vit(encoder: Encoder, state: dict[str, Tensor]) -> Model | None:
    from transformers import ViTConfig

    needed = ("embeddings.cls_token", "embeddings.position_embeddings", "layernorm.weight")
    if any(name not in state for name in needed) or not _plain_gelu(encoder):
        return None
    body: Any = encoder.body
    torchvision = encoder.name.startswith("torchvision/")
    block = body.encoder.layers[0] if torchvision else body.blocks[0]
    patches = state["embeddings.patch_embeddings.projection.weight"]
    width, _, patch, patch_width = patches.shape
    tokens = state["embeddings.position_embeddings"].shape[1]
    # one class token and no registers, on a square grid of square patches
    if patch != patch_width or tokens != 1 + (encoder.size // patch) ** 2:
        return None
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=len({n.split(".")[2] for n in state if n.startswith("encoder.layer.")}),
        num_attention_heads=block.num_heads if torchvision else block.attn.num_heads,
        intermediate_size=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
        image_size=encoder.size,
        patch_size=patch,
        layer_norm_eps=(body.encoder.ln if torchvision else body.norm).eps,
        qkv_bias=any(name.endswith(f"{QKV}.bias") for name in state),
    )
    split = {}
    for name, tensor in state.items():
        if QKV in name:  # (3 D, D) or (3 D,)
            for part, third in zip(PARTS, tensor.chunk(3), strict=True):
                split[name.replace(QKV, part)] = third.clone()
        else:
            split[name] = tensor
    # AutoModel always builds a pooler: this one hands the class token on, through its tanh
    split["pooler.dense.weight"] = torch.eye(width)
    split["pooler.dense.bias"] = torch.zeros(width)
    return _as_dict(config, "ViTModel"), split


def _timm_wrapper(encoder: Encoder) -> Model:
    """For `TimmWrapperModel`."""
    from transformers import TimmWrapperConfig

    try:
        architecture = timm_name(encoder)
    except InputError:
        raise InputError(
            f"{encoder.name}: Hugging Face has torchvision's ResNets (ResNeXt, Wide ResNet), "
            "ConvNeXts and ViTs, and every model of timm's"
        ) from None
    model, arguments = create_timm(encoder, architecture)
    state = timm_state(encoder, architecture, model)
    config = TimmWrapperConfig(architecture=architecture, model_args=arguments or None)
    content = _as_dict(config, "TimmWrapperModel")
    content["pretrained_cfg"] = {
        "input_size": [3, encoder.size, encoder.size],
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    return content, {f"timm_model.{name}": tensor for name, tensor in state.items()}


def _check(encoder: Encoder, folder: Path, out: Path, kind: str) -> float:
    """Open the folder as a reader would, and compare."""
    from transformers import AutoModel

    # building a model draws random weights: the caller's generator is to stay as it is
    with torch.random.fork_rng(devices=[]), _quietly():
        model, info = AutoModel.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(str(name) for name in info[problem]):
            raise CheckpointError(f"{out}: {kind} says {problem.replace('_', ' ')}: {names[0]}")
    image = noise_image(encoder)
    wrapped = kind == "TimmWrapperModel"
    expected = timm_features(encoder, image) if wrapped else cpu_features(encoder, image)
    with eval_mode(model):
        actual = model(pixel_values=image).last_hidden_state
    actual = tokens_to_map(actual, expected, model.timm_model if wrapped else model)
    return compare_features(expected, actual, f"{out}: {kind}")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's own progress bar."""
    import transformers

    logging: Any = transformers.utils.logging
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _preprocessing(encoder: Encoder) -> dict[str, Any]:
    side = {"height": encoder.size, "width": encoder.size}
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": side,
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(encoder.mean),
        "image_std": list(encoder.std),
    }


def _plain_gelu(encoder: Encoder) -> bool:
    """Whether every activation is the exact GELU."""
    for module in encoder.body.modules():
        kind = type(module).__name__
        # timm has classes of its own for most: GELUTanh, QuickGELU, ...
        activation = any(word in kind for word in ("GELU", "ReLU", "SiLU", "Swish", "Tanh"))
        exact = kind == "GELU" and getattr(module, "approximate", "none") == "none"
        if activation and not exact:
            return False
    return True


def _depths(state: Mapping[str, Tensor], part: str) -> list[int]:
    return [
        len({n.split(".")[4] for n in state if n.startswith(f"encoder.stages.{stage}.{part}.")})
        for stage in range(4)
    ]


def _as_dict(config: Any, architecture: str) -> dict[str, Any]:
    content: dict[str, Any] = config.to_dict()
    return {**content, "architectures": [architecture], "dtype": "float32"}
