"""`PromptableSegmenter`, the `Localizer` of every SAM; what differs among them is a `Backend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.localizers.frame import logits_to_masks
from anyregion.localizers.prompts import PromptBatch, prompt_batches
from anyregion.localizers.protocol import RegionTokens, TokenSource
from anyregion.localizers.square import Frame
from anyregion.localizers.two_way import ImageTokens, image_tokens, two_way
from anyregion.masks import RLE
from anyregion.regions import Regions
from anyregion.torch_utils.devices import check_device
from anyregion.torch_utils.weights import config_json, fingerprint


class Backend(Protocol):
    """What SAM, SAM-HQ, SAM 2 and SAM 3 do differently around the same two-way transformer.

    Attributes:
        model: the model of `transformers`, with `prompt_encoder` and `mask_decoder`, frozen.
        kind: its name in fingerprints, which stores and unfinished runs hold: it never changes.
        output_tokens: `(R, C)`, the learned tokens that go before the prompt's.
        score_row: which of them predicts the masks' IoU.
        mask_row: the first of the mask tokens; the three candidates follow it.
        mean, std: of the model's input, RGB.
        layer_norm_eps: of the mask decoder as published, where the files of the hub state another.
        pred_iou_thresh: of the published automatic generator, see `AutomaticOptions`.
    """

    model: Any
    kind: str
    output_tokens: Tensor
    score_row: int
    mask_row: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layer_norm_eps: float | None
    pred_iou_thresh: float

    def preprocess(self, image: Pixels) -> tuple[Tensor, Frame]:
        """The model's input `(3, side, side)` on the CPU, and where the image lies in it."""
        ...

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """`(B, 3, side, side)` to the embeddings `(B, C, h, w)` and what masks need beside them."""
        ...

    def mask_features(self, encoded: LocalizedImage) -> tuple[Tensor, ...]:
        """What masks need of the image alone, once for all prompts."""
        ...

    def mask_logits(
        self, tokens: Tensor, image: Tensor, features: tuple[Tensor, ...], *, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """All output tokens `(P, R, C)` and image maps `(P, C, h, w)` to logits and their scores.

        Returns:
            `(P, M, 4 h, 4 w)` and `(P, M)`, the masks that the backend publishes for a prompt.
        """
        ...


@dataclass(frozen=True, eq=False)
class LocalizedImage:
    """An image that was encoded once.

    Attributes:
        embedding: `(1, C, h, w)`.
        frame: where the image lies in the model's square.
        extras: what the backend's masks need beside the embedding, `(1, ...)` each.
    """

    embedding: Tensor
    frame: Frame
    extras: tuple[Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LocalizerOptions:
    """Where a localizer runs, how much at a time, how exactly; None is what suits the device.

    Attributes:
        device: `cpu`, `cuda`, ...
        chunk: prompts a pass. Memory grows with it: about 25 MB each for tokens and 60 MB each
            for masks at 1024 pixels. 2 on a CPU, where more leaves its caches, else 32.
        batch_size: images a pass of the image encoder. 1 on a CPU, which gains nothing from
            more (at 1024 pixels a ViT needs above 1 GB an image), else 8.
        encoder_dtype: bfloat16 runs the image encoder alone under autocast; else float32.

    Raises:
        InputError: a device that is not here, or a `chunk` or `batch_size` below 1.
    """

    device: str | torch.device = "cpu"
    chunk: int | None = None
    batch_size: int | None = None
    encoder_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        check_device(self.device)
        for count in (self.chunk, self.batch_size):
            if count is not None and count < 1:
                raise InputError("chunk and batch_size must be at least 1")


DEFAULTS = LocalizerOptions()


class PromptableSegmenter:
    """Tokens and masks of prompted regions, by a frozen SAM of any version.

    A region's token is the mask decoder's output token: token 0 for the single mask, tokens 1 to 3
    for the candidates. Tokens alone never pay for mask upsampling, nor each prompt for what it
    shares with the others (see `two_way`).

    Args:
        backend: `SamBackend`, `SamHQBackend`, `Sam2Backend` or `Sam3Backend`.
        model: of `transformers`, float32; it is moved to its device and frozen.
        name: hub name or path that the weights came from.
    """

    def __init__(
        self,
        backend: Callable[[Any], Backend],
        model: Any,
        *,
        name: str,
        options: LocalizerOptions = DEFAULTS,
    ) -> None:
        model = model.to(options.device).eval().requires_grad_(False)
        self.backend: Backend = backend(model)
        self.name = name
        self.device: torch.device = self.backend.output_tokens.device
        self.token_width: int = self.backend.output_tokens.shape[1]
        on_cpu = self.device.type == "cpu"
        if on_cpu:
            # Every chunk allocates the same blocks of some megabytes again: handed back to the
            # system each time, their pages fault anew, a third of the whole time. Freeing one
            # untouched block just below glibc's limit of 32 MiB lifts its dynamic threshold that
            # far (mallopt(3), M_MMAP_THRESHOLD).
            torch.empty(31 * 2**20, dtype=torch.uint8)
        self.chunk = options.chunk or (2 if on_cpu else 32)
        self.batch_size = options.batch_size or (1 if on_cpu else 8)
        self.encoder_dtype = options.encoder_dtype or torch.float32
        self.low_side: int = 4 * model.prompt_encoder.image_embedding_size[0]
        with torch.no_grad():
            self._positions: Tensor = model.get_image_wide_positional_embeddings()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, configuration, backend, input and precision; computed on first use."""
        backend = self.backend
        return fingerprint(
            backend.model.state_dict().items(),
            backend.kind,
            config_json(backend.model.config),
            backend.mean,
            backend.std,
            self.encoder_dtype,
        )

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[LocalizedImage]:
        """Encode images of any sizes, `batch_size` at a time in one padded batch."""
        encoded: list[LocalizedImage] = []
        device, low = self.device.type, self.encoder_dtype != torch.float32
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            pixels, frames = zip(*map(self.backend.preprocess, batch), strict=True)
            with torch.autocast(device, dtype=self.encoder_dtype) if low else nullcontext():
                maps = self.backend.encode(torch.stack(pixels).to(self.device))
            # back to single images, which may be kept or dropped one by one: (1, C, h, w) each
            by_image = zip(*(torch.split(m.float(), 1) for m in maps), strict=True)
            for frame, (embedding, *extras) in zip(frames, by_image, strict=True):
                encoded.append(LocalizedImage(embedding, frame, tuple(extras)))
        return encoded

    @torch.no_grad()
    def tokens(
        self,
        encoded: LocalizedImage,
        regions: Regions,
        *,
        multimask: bool = False,
        masks: bool = False,
        source: TokenSource = "decoder",
    ) -> RegionTokens:
        """Tokens of the regions of one image, in their order. See `Localizer.tokens`.

        Raises:
            InputError: `mask_logits` or a mask of another size than the model or image has.
        """
        multimask = multimask and source == "decoder"
        count, candidates, side = len(regions.boxes), 3 if multimask else 1, self.low_side
        new = partial(torch.empty, device=self.device)
        result = RegionTokens(
            tokens=new((count, candidates, self.token_width)),
            mask_scores=new((count, candidates)) if masks or multimask else None,
            mask_logits=new((count, candidates, side, side)) if masks else None,
        )
        features = self.backend.mask_features(encoded) if masks and count else ()
        shared: ImageTokens | None = None
        batches = prompt_batches(
            regions, encoded.frame, chunk=self.chunk, low_side=side, device=self.device
        )
        for prompt in batches:
            sparse, dense = self.prompt_embeddings(prompt)
            if source == "prompt":
                result.tokens[prompt.rows] = sparse.mean(1, keepdim=True)
                if not masks:
                    continue
            image = shared
            if image is None or prompt.masks is not None:
                transformer = self.backend.model.mask_decoder.transformer
                image = image_tokens(transformer, encoded.embedding + dense, self._positions)
                # a mask prompt changes the image tokens: those are of no use to other batches
                shared = image if prompt.masks is None else shared
            self._decode(result, prompt.rows, sparse, image, features, source)
        return result

    def masks(self, encoded: LocalizedImage, mask_logits: Tensor) -> list[list[RLE]]:
        """Logits `(N, M, h, w)` to binary masks at the image's size, N lists of M."""
        # one region at a time: the full-size logits of many would not fit in memory
        return [logits_to_masks(logits, encoded.frame) for logits in mask_logits]

    def prompt_embeddings(self, prompt: PromptBatch) -> tuple[Tensor, Tensor]:
        """The prompt encoder's tokens `(P, T, C)` and dense embedding `(1 or P, C, h, w)`."""
        sparse, dense = self.backend.model.prompt_encoder(
            input_points=prompt.points,
            input_labels=prompt.labels,
            input_boxes=prompt.boxes,
            input_masks=prompt.masks,
        )
        return sparse[0], dense

    def _decode(
        self,
        result: RegionTokens,
        rows: list[int],
        sparse: Tensor,
        image: ImageTokens,
        features: tuple[Tensor, ...],
        source: TokenSource,
    ) -> None:
        """Run the mask decoder on prompts `(P, T, C)`; fill `rows` of all that `result` holds."""
        backend = self.backend
        decoder = backend.model.mask_decoder
        multimask = result.tokens.shape[1] > 1
        candidates = [1, 2, 3] if multimask else [0]
        mask_rows = [backend.mask_row + i for i in candidates]
        output = backend.output_tokens
        # only what is read is led through the last attention; masks read every output token
        if result.mask_logits is not None:
            last = list(range(len(output)))
        else:
            last = mask_rows + [backend.score_row] * (result.mask_scores is not None)
        tokens, maps = two_way(
            decoder.transformer,
            torch.cat([output.expand(len(sparse), -1, -1), sparse], dim=1),  # (P, R + T, C)
            image,
            rows=last,
            keep_image=result.mask_logits is not None,
        )
        if source == "decoder":
            result.tokens[rows] = tokens[:, [last.index(row) for row in mask_rows]]
        if maps is not None and result.mask_logits is not None and result.mask_scores is not None:
            grid = self.low_side // 4
            maps = maps.transpose(1, 2).reshape(len(rows), -1, grid, grid)  # (P, C, h, w)
            logits, scores = backend.mask_logits(tokens, maps, features, multimask=multimask)
            result.mask_logits[rows] = logits
            result.mask_scores[rows] = scores
        elif result.mask_scores is not None:
            scores = decoder.iou_prediction_head(tokens[:, last.index(backend.score_row)])  # (P, 4)
            result.mask_scores[rows] = scores[:, candidates]
