"""TIPSv2 (Cao et al., CVPR 2026, arXiv 2604.12012) as `transformers` has it from 5.14 on.

Its patches were trained against texts, too, so its dense features are the last layer's as they
are. Images are numbers from 0 to 1, texts a mean over their pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor, cat

from anyregion.torch_utils.weights import config_json
from anyregion.vlms.dense import Dense, LastLayer, run_dense
from anyregion.vlms.model import FrozenVLM
from anyregion.vlms.preprocess import square_grid
from anyregion.vlms.protocol import VlmOptions
from anyregion.vlms.text import BatchedTextEncoder, pad_to_context

TIPS_TEMPLATES: tuple[str, ...] = ("a photo of a {}",)
"""As the model is shown in the documentation of `transformers`."""


class Tipsv2Tower:
    """The image side: a class token, further ones, the patches; no projection behind them.

    The first class token was trained on captions of the web and is the image's embedding. The
    others (registers in the configuration) were trained on synthetic captions; feature maps leave
    them out. Positions are fitted to other input sizes by the model itself, bilinearly.
    """

    def __init__(self, model: Any, image_size: int | None) -> None:
        config = model.config.vision_config
        self.mean: Sequence[float] = (0.0, 0.0, 0.0)
        self.std: Sequence[float] = (1.0, 1.0, 1.0)
        self.image_size: int = image_size or _side(config.image_size)
        self.stride: int = _side(config.patch_size)
        self.grid = square_grid(self.image_size, self.stride)
        self.feature_width: int = config.hidden_size
        self.embed_width: int = config.hidden_size
        self.module = model.vision_model
        self._prefix = 1 + config.num_register_tokens

    def tokens(self, pixels: Tensor) -> Tensor:
        x = self._run(pixels)  # (B, 1 + registers + h w, D)
        return cat([x[:, :1], x[:, self._prefix :]], dim=1)

    def embed(self, pixels: Tensor) -> Tensor:
        embeddings: Tensor = self.module.layernorm(self._run(pixels))[:, 0]
        return embeddings

    def dense(self, pixels: Tensor, dense: Dense) -> Tensor:
        x = run_dense(self._last, self._run(pixels, skip=1), dense)
        cells: Tensor = self.module.layernorm(x[:, self._prefix :])
        return cells

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        yield from self.module.state_dict().items()

    def describe(self) -> str:
        return config_json(self.module.config)

    def _run(self, pixels: Tensor, *, skip: int = 0) -> Tensor:
        """All tokens, before the final norm; `skip` leaves out the last layers."""
        x = self.module.embeddings(pixels)
        layers = self.module.encoder.layer
        for layer in layers[: len(layers) - skip]:
            x = layer(x)
        return x  # type: ignore[no-any-return]

    @cached_property
    def _last(self) -> LastLayer:
        layer = self.module.encoder.layer[-1]
        attention = layer.attention
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        biases = [part.bias for part in parts]
        return LastLayer(
            norm1=layer.norm1,
            weight=cat([part.weight for part in parts]),
            bias=None if biases[0] is None else cat(biases),
            out=attention.o_proj,
            norm2=layer.norm2,
            mlp=layer.mlp,
            heads=attention.num_attention_heads,
            scale1=layer.layer_scale1,
            scale2=layer.layer_scale2,
        )


def wrap_tipsv2(model: Any, tokenizer: Any, name: str, options: VlmOptions) -> FrozenVLM:
    """TIPSv2 as `transformers` loaded it; it is taken over and frozen.

    Unless `dense` is chosen, dense features are `plain`: the last layer unchanged.
    """
    options = replace(options, dense=options.dense or "plain")
    vision = Tipsv2Tower(model.requires_grad_(False).eval(), options.image_size)
    model.to(options.device)
    config = model.config.text_config
    # its own tokenizer lowers case, and adds neither a start nor an end
    encode = pad_to_context(tokenizer, config.max_position_embeddings)
    padding: int = config.pad_token_id or 0

    def forward(ids: Tensor) -> Tensor:
        pieces = (ids != padding).long()
        pieces[:, 0] = 1  # a text of no pieces is its padding, not a mean over nothing
        embeddings: Tensor = model.text_model(input_ids=ids, attention_mask=pieces).pooler_output
        return embeddings

    text = BatchedTextEncoder(
        tokenizer=encode,
        forward=forward,
        # padding is neither attended to nor averaged, so that texts may be cut to the longest
        end_of=lambda ids: (ids != padding).sum(dim=1).clamp(min=1) - 1,
        weights=lambda: model.text_model.state_dict().items(),
        describe=lambda: f"{encode.describe()} {config_json(config)}",
        templates=TIPS_TEMPLATES,
        embed_width=vision.embed_width,
        options=options,
    )
    return FrozenVLM(
        name=name,
        vision=vision,
        text=text,
        logit_scale=1 / float(model.temperature.detach()),
        options=options,
    )


def _side(size: Any) -> int:
    """A side that a configuration states once, or for height and width."""
    return int(size if isinstance(size, int) else size[0])
