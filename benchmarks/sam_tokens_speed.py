"""Naming boxes needs SAM's tokens, not its masks: what that saves.

Compares, in one run, the CPU seconds of the tokens of N boxes, and of their tokens and masks, with
decoding N replicated prompts with masks through `transformers`' own mask decoder: as it is, in
bfloat16, and with `--compile` compiled. SAM ViT-B's sizes, random weights; the image encoder is
left out of the comparison (all ways need it once an image): a random embedding stands for its
output.

    python benchmarks/sam_tokens_speed.py [--boxes 100] [--threads 1] [--compile] [--memory]

`--memory` decodes 1,000 boxes (tokens, then masks too), encodes an image with the whole ViT-B, and
prints the peak resident memory after each step in place of the comparison.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch
from torch import Tensor
from transformers import SamConfig, SamModel

from anyregion.localizers.sam import SamBackend
from anyregion.localizers.segmenter import LocalizedImage, PromptableSegmenter
from anyregion.localizers.square import padded_frame, to_frame
from anyregion.regions import Regions

IMAGE = (768, 1024)
PLAIN_CHUNKS = (10, 2)  # a usual one, and the quickest: its memory is reused
GOAL = 4.0
MEMORY_GOAL = 6.0


def build(*, image_encoder: bool = False) -> tuple[PromptableSegmenter, LocalizedImage]:
    """A SAM of ViT-B's sizes, and a random embedding of a 1024-pixel image."""
    torch.manual_seed(0)
    # one block of the image encoder is enough where it is not run
    vision = {} if image_encoder else {"num_hidden_layers": 1, "global_attn_indexes": []}
    config = SamConfig(vision_config=vision, mask_decoder_config={"layer_norm_eps": 1e-5})
    model = SamModel(config)
    for parameter in model.mask_decoder.parameters():
        if parameter.dim() > 1:  # transformers' own start is too small for attention to matter
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    localizer = PromptableSegmenter(SamBackend, model, name="random SAM ViT-B")
    embedding = torch.randn(1, 256, 64, 64)
    return localizer, LocalizedImage(embedding, padded_frame(IMAGE, 1024))


def random_boxes(count: int) -> Regions:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, [IMAGE[1] - 100, IMAGE[0] - 100], (count, 2))
    high = np.minimum(low + rng.uniform(16, 400, (count, 2)), [IMAGE[1], IMAGE[0]])
    return Regions.from_boxes(np.concatenate([low, high], axis=1))


@torch.no_grad()
def plain(
    localizer: PromptableSegmenter, encoded: LocalizedImage, regions: Regions, chunk: int
) -> Tensor:
    """Mask tokens the plain way: every prompt with its own copy of the image, masks and all."""
    model = localizer.backend.model
    tokens: list[Tensor] = []
    hook = model.mask_decoder.transformer.register_forward_hook(
        lambda _module, _inputs, output: tokens.append(output[0][0, :, 1:2])
    )
    boxes = torch.from_numpy(to_frame(regions.boxes, encoded.frame))[None]
    for part in boxes.split(chunk, dim=1):
        model(image_embeddings=encoded.embedding, input_boxes=part, multimask_output=False)
    hook.remove()
    return torch.cat(tokens)


def compare(count: int, *, compiled: bool) -> None:
    localizer, encoded = build()
    regions = random_boxes(count)
    warm = random_boxes(8)
    localizer.tokens(encoded, warm)
    plain(localizer, encoded, warm, 2)
    start = time.process_time()
    tokens = localizer.tokens(encoded, regions).tokens
    seconds = time.process_time() - start
    print(f"{count} boxes, {torch.get_num_threads()} thread(s), CPU seconds without image encoder")
    print(f"  tokens only, shared and folded               {seconds:6.2f}")
    localizer.tokens(encoded, warm, masks=True)
    start = time.process_time()
    localizer.tokens(encoded, regions, masks=True)
    with_masks = time.process_time() - start
    print(f"  tokens and masks                             {with_masks:6.2f}")
    ways = [(f"float32, {chunk:2} at a time", chunk, torch.float32) for chunk in PLAIN_CHUNKS]
    ways.append((f"bfloat16, {PLAIN_CHUNKS[-1]} at a time", PLAIN_CHUNKS[-1], torch.bfloat16))
    if compiled:
        # what does nearly all the work, and not what the tokens are read from
        transformer = localizer.backend.model.mask_decoder.transformer
        transformer.forward = torch.compile(transformer.forward, dynamic=False)
        # chunks of one size alone: another one would be compiled anew
        count -= count % PLAIN_CHUNKS[-1]
        ways.append((f"compiled, {PLAIN_CHUNKS[-1]} at a time", PLAIN_CHUNKS[-1], torch.float32))
    for title, chunk, dtype in ways:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            if title.startswith(("bfloat16", "compiled")):
                plain(localizer, encoded, warm, chunk)
            start = time.process_time()
            plain_tokens = plain(localizer, encoded, regions[:count], chunk)
            plainly = time.process_time() - start
        print(f"  replicated prompts, {title:24} {plainly:6.2f}", end="")
        print(f"  of tokens {plainly / seconds:.1f} (goal: {GOAL:g}), of masks", end="")
        print(f" {plainly / with_masks:.1f}")
        if title.startswith("float32"):
            difference = float((tokens - plain_tokens).abs().max() / plain_tokens.abs().max())
    print(f"  largest token difference, relative to the largest token value: {difference:.1e}")


def memory(count: int) -> None:
    localizer, encoded = build(image_encoder=True)
    regions = random_boxes(count)
    peaks = [("libraries, model", _peak())]
    localizer.tokens(encoded, regions)
    peaks.append(("tokens", _peak()))
    localizer.tokens(encoded, regions, masks=True)
    peaks.append(("tokens and masks", _peak()))
    localizer.encode([np.zeros((*IMAGE, 3), dtype=np.uint8)])
    peaks.append(("image encoder", _peak()))
    print(f"{count} boxes on a 1024-pixel SAM, peak resident memory in GiB (goal: {MEMORY_GOAL:g})")
    for step, peak in peaks:
        print(f"  {step:18} {peak:5.2f}")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=None, help="default 100, with --memory 1,000")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="the plain way compiled, too")
    parser.add_argument("--memory", action="store_true", help="peak memory in place of time")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        memory(args.boxes or 1000)
    else:
        compare(args.boxes or 100, compiled=args.compile)


if __name__ == "__main__":
    main()
