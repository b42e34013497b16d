"""The image towers of `open_clip`, each as a `VisionTower`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from anyregion.errors import InputError
from anyregion.vlms.dense import Dense, LastLayer, from_open_clip, from_timm, run_dense
from anyregion.vlms.preprocess import resize_positions, square_grid

# of the last stage in every ResNet of CLIP
_RESNET_STRIDE = 32
_NOT_DENSE = "this image tower has no dense features in the words' space; crop its regions instead"

# plain attributes of layers that change no output, but differ between machines and folders
_NO_SETTINGS = frozenset({"training", "fused_attn", "name_or_path"})


class OpenClipTower:
    """What the image towers of `open_clip` share: all of their state is in one module."""

    _visual: Any

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        yield from self._visual.state_dict().items()

    def describe(self) -> str:
        return describe_layers(self._visual)


class VitTower(OpenClipTower):
    """`open_clip`'s own ViT. Dense features: the changed last layer, final norm, projection."""

    def __init__(self, model: Any, image_size: int | None) -> None:
        visual = model.visual
        self.mean, self.std = _mean_and_std(model)
        self.image_size: int = image_size or visual.image_size[0]
        self.stride: int = visual.patch_size[0]
        self.grid = square_grid(self.image_size, self.stride)
        self.feature_width: int = visual.conv1.out_channels
        self.embed_width: int = visual.output_dim
        self._model = model
        self._visual = visual
        visual.positional_embedding = nn.Parameter(
            resize_positions(visual.positional_embedding.detach(), self.grid), requires_grad=False
        )
        visual.image_size, visual.grid_size = (self.image_size,) * 2, self.grid

    def tokens(self, pixels: Tensor) -> Tensor:
        return _after(self._visual, pixels, [len(self._visual.transformer.resblocks) - 1])

    def embed(self, pixels: Tensor) -> Tensor:
        embedded: Tensor = self._model.encode_image(pixels, normalize=False)
        return embedded

    def dense(self, pixels: Tensor, dense: Dense) -> Tensor:
        visual = self._visual
        blocks = visual.transformer.resblocks
        last = from_open_clip(blocks[-1])
        if last is None or visual.attn_pool is not None or len(blocks) < 2:
            raise InputError(_NOT_DENSE)
        x = run_dense(last, _after(visual, pixels, [len(blocks) - 2]), dense)[:, 1:]
        cells: Tensor = visual.ln_post(x)
        return cells if visual.proj is None else cells @ visual.proj


class ResNetTower(OpenClipTower):
    """CLIP's ResNet. The feature map is the last stage's grid, row by row, without class token.

    Dense features are MaskCLIP's for ResNets: the attention pool's value projection, then its
    output projection, cell by cell, without positions. There is no other way (`dense` is moot).
    """

    def __init__(self, model: Any, image_size: int | None) -> None:
        visual = model.visual
        self.mean, self.std = _mean_and_std(model)
        side = visual.image_size  # a number or a pair
        self.image_size: int = image_size or (side if isinstance(side, int) else side[0])
        self.stride = _RESNET_STRIDE
        if self.image_size % self.stride or self.image_size < self.stride:
            raise InputError(f"image_size of a ResNet must be a multiple of {self.stride}")
        self.grid = (self.image_size // self.stride,) * 2
        pool = visual.attnpool
        self.feature_width: int = pool.v_proj.in_features
        self.embed_width: int = pool.c_proj.out_features
        self._visual = visual
        pool.positional_embedding = nn.Parameter(
            resize_positions(pool.positional_embedding.detach(), self.grid), requires_grad=False
        )

    def tokens(self, pixels: Tensor) -> Tensor:
        return self._grid(pixels).flatten(2).transpose(1, 2)

    def embed(self, pixels: Tensor) -> Tensor:
        embedded: Tensor = self._visual.attnpool(self._grid(pixels))
        return embedded

    def dense(self, pixels: Tensor, dense: Dense) -> Tensor:
        pool = self._visual.attnpool
        cells: Tensor = pool.c_proj(pool.v_proj(self.tokens(pixels)))
        return cells

    def _grid(self, pixels: Tensor) -> Tensor:
        x = self._visual.stem(pixels)
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            x = getattr(self._visual, stage)(x)
        grid: Tensor = x
        return grid


class TimmTower(OpenClipTower):
    """A `timm` network in `open_clip` (ConvNeXt, SigLIP's ViT, ...).

    Other input sizes are left to `timm`, which resizes positions its own way. Dense features: the
    head on each cell as if it were the whole map, after a changed last layer where the blocks are
    those of a plain ViT.
    """

    def __init__(self, model: Any, image_size: int | None) -> None:
        visual = model.visual
        self.mean, self.std = _mean_and_std(model)
        if image_size is not None and image_size != visual.image_size[0]:
            visual.set_input_size(image_size)
        self.image_size: int = image_size or visual.image_size[0]
        self._visual = visual
        self._trunk = visual.trunk
        self._prefix: int = getattr(self._trunk, "num_prefix_tokens", 0)
        # sizes are measured on one black image: timm has no common attribute for them
        probe = next(visual.parameters()).new_zeros(1, 3, self.image_size, self.image_size)
        with torch.no_grad():
            last = self._map(probe)
            self.embed_width: int = visual(probe).shape[1]
        self.grid: tuple[int, int] = (last.shape[2], last.shape[3])
        self.feature_width: int = last.shape[1]
        self.stride = self.image_size // self.grid[0]

    def tokens(self, pixels: Tensor) -> Tensor:
        # class tokens are kept where there is one; registers, of which there are more, are not
        if self._prefix != 1:
            return self._map(pixels).flatten(2).transpose(1, 2)
        return _after(self._visual, pixels, 1)

    def embed(self, pixels: Tensor) -> Tensor:
        embedded: Tensor = self._visual(pixels)
        return embedded

    def dense(self, pixels: Tensor, dense: Dense) -> Tensor:
        blocks = getattr(self._trunk, "blocks", None)
        if blocks is None:
            x = self._trunk.forward_features(pixels)
            if x.shape[1:] != (self._trunk.num_features, *self.grid):
                raise InputError(_NOT_DENSE)
            # (B, D, h, w) to (B h w, D, 1, 1): each cell is a map of its own
            cells = x.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
        else:
            last = from_timm(blocks[-1])
            if last is None or self._prefix > 1 or len(blocks) < 2:
                raise InputError(_NOT_DENSE)
            # (B, h w, D) to (B h w, 1, D): each cell is a sequence of its own
            cells = self._vit_cells(pixels, last, dense).flatten(0, 1)[:, None]
        embedded: Tensor = self._visual.head(self._trunk.forward_head(cells))
        return embedded.reshape(len(pixels), -1, self.embed_width)

    def _vit_cells(self, pixels: Tensor, last: LastLayer, dense: Dense) -> Tensor:
        block = len(self._trunk.blocks) - 2
        x = _after(self._visual, pixels, [block], class_token=self._prefix > 0)
        normed: Tensor = self._trunk.norm(run_dense(last, x, dense)[:, self._prefix :])
        return normed

    def _map(self, pixels: Tensor) -> Tensor:
        """The last stage `(B, D, h, w)`, whatever the architecture."""
        result = self._visual.forward_intermediates(pixels, indices=1, intermediates_only=True)
        last: Tensor = result["image_intermediates"][0]
        return last


def describe_layers(side: nn.Module) -> str:
    """Every layer of one side of a model: its kind and its settings (heads, eps, pooling, ...).

    The configuration a model was built from is not kept by `open_clip`, so its layers are read.
    """
    lines = []
    for path, module in side.named_modules():
        if path.split(".")[0] != "visual":
            # a function's own repr is an address, so its name stands for it
            settings = {
                key: getattr(value, "__name__", value)
                for key, value in sorted(vars(module).items())
                if not key.startswith("_") and key not in _NO_SETTINGS and _is_setting(value)
            }
            lines.append(f"{path} {type(module).__name__}({module.extra_repr()}) {settings}")
    return "\n".join(lines)


def _is_setting(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(isinstance(each, int | float | str | None) for each in value)
    return isinstance(value, int | float | str | FunctionType | BuiltinFunctionType | None)


def _mean_and_std(model: Any) -> tuple[Sequence[float], Sequence[float]]:
    import open_clip

    config = open_clip.get_model_preprocess_cfg(model)
    return (
        tuple(config.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        tuple(config.get("std") or open_clip.OPENAI_DATASET_STD),
    )


def _after(
    visual: Any, pixels: Tensor, blocks: int | list[int], *, class_token: bool = True
) -> Tensor:
    """Tokens `(B, T, D)` after a block: the one that is listed, or the last where `blocks` is 1."""
    result = visual.forward_intermediates(
        pixels,
        indices=blocks,
        stop_early=True,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=class_token,
    )
    cells: Tensor = result["image_intermediates"][0]
    return torch.cat([result["image_intermediates_prefix"][0], cells], 1) if class_token else cells
