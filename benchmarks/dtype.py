"""RegionSpot with its frozen encoders in bfloat16, against float32.

Compares, in one run, the CPU seconds of an image (SAM ViT-B at 1024 pixels, CLIP's image side, 10
boxes), and prints how far tokens, feature maps and region embeddings move. The sizes are the
published model's, the weights random with unit gain: the deviations are of rounding alone, and
those of trained weights have to be measured with them (`evaluate classification --dtype`).

    python benchmarks/dtype.py [--vlm base|large] [--boxes 10] [--rounds 1] [--threads 1]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SamConfig, SamModel

from anyregion.localizers.sam import SamBackend
from anyregion.localizers.segmenter import LocalizerOptions, PromptableSegmenter
from anyregion.regions import Regions
from anyregion.regionspot.adapter import Adapter, AdapterConfig, stack_tokens
from anyregion.torch_utils.devices import resolve_dtype
from random_weights import unit_gain

HEIGHT, WIDTH = 480, 640
# hidden size, feed-forward, layers, heads, patch, side; width of the text space
CLIP_SIZES = {
    "base": (768, 3072, 12, 12, 16, 224, 512),
    "large": (1024, 4096, 24, 16, 14, 336, 768),
}


def deviation(exact: torch.Tensor, low: torch.Tensor) -> str:
    """Largest difference as a share of the largest value, and the smallest cosine of two rows."""
    share = ((exact - low).abs().max() / exact.abs().max()).item()
    cosine = torch.cosine_similarity(exact, low, dim=-1).min().item()
    return f"largest deviation {100 * share:.2f} % of the largest value, cosine >= {cosine:.5f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vlm", choices=sorted(CLIP_SIZES), default="base")
    parser.add_argument("--boxes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hidden, feedforward, layers, heads, patch, side, text = CLIP_SIZES[args.vlm]
    torch.manual_seed(0)
    sam = unit_gain(SamModel(SamConfig(mask_decoder_config={"layer_norm_eps": 1e-5})))
    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=feedforward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        patch_size=patch,
        image_size=side,
    )
    clip = unit_gain(CLIPVisionModel(config))
    adapter = unit_gain(Adapter(AdapterConfig(feature_width=hidden, embed_width=text)))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    low = rng.uniform(0, [WIDTH - 100, HEIGHT - 100], (args.boxes, 2))
    regions = Regions.from_boxes(
        np.concatenate([low, low + rng.uniform(20, 100, low.shape)], axis=1)
    )
    squashed = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    results: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        options = LocalizerOptions(encoder_dtype=dtype)
        localizer = PromptableSegmenter(SamBackend, sam, name="random SAM ViT-B", options=options)
        best: dict[str, float] = {}
        for _ in range(args.rounds):
            seconds = {}
            start = time.process_time()
            with torch.inference_mode():
                (encoded,) = localizer.encode([image])
                seconds["SAM's encoder"] = time.process_time() - start
                start = time.process_time()
                with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                    features = clip(squashed).last_hidden_state.float()
                seconds["CLIP's encoder"] = time.process_time() - start
                start = time.process_time()
                tokens = localizer.tokens(encoded, regions).tokens
                stacked, groups = stack_tokens([tokens])
                embeddings = adapter(stacked, features, groups=groups)[0].reshape(-1, text)
                seconds[f"tokens and adapter, {args.boxes} boxes (float32)"] = (
                    time.process_time() - start
                )
            best = {key: min(value, best.get(key, value)) for key, value in seconds.items()}
        results[str(dtype)] = (best, tokens.reshape(args.boxes, -1), features[0], embeddings)
    (exact, *rows), (fast, *low_rows) = results.values()
    print(f"auto is {resolve_dtype('auto', 'cpu')} here")
    for key, value in exact.items():
        print(f"{key}: {value:.2f} s in float32, {fast[key]:.2f} s in bfloat16")
    whole = sum(exact.values()) / sum(fast.values())
    print(f"an image: ratio {whole:.2f}")
    for key, a, b in zip(("tokens", "feature map", "embeddings"), rows, low_rows, strict=True):
        print(f"{key}: {deviation(a, b)}")


if __name__ == "__main__":
    main()
