"""Encoding a vocabulary: cut, sorted, batched prompts against 77 tokens class by class.

    python benchmarks/vocabulary_speed.py            # the text tower of CLIP ViT-B/32
    python benchmarks/vocabulary_speed.py --small    # a small tower: a few seconds

Both ways run in this process on one thread; what counts is CPU seconds. The weights are random,
which changes no work. The plain way (every prompt padded to 77 tokens, one class of 81 prompts at
a time, as the published code does) is timed on `--plain-classes` of the names, spread evenly, and
scaled to all of them: it does the same work for every class. The difference is the largest over
those classes, of the un-normalised embeddings and of the finished rows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip
import torch

from anyregion.vlms.model import FrozenVLM
from anyregion.vlms.openai_clip import clip_from_openai_state_dict
from anyregion.vlms.text import CLIP_TEMPLATES
from anyregion.vocabulary import Vocabulary, encode_vocabulary


def random_clip(*, width: int, layers: int) -> tuple[FrozenVLM, Any]:
    """A CLIP with a text tower of this size, and the library's own module of the same weights."""
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 32, "width": 64, "layers": 1}
    text = {"width": width, "heads": width // 64, "layers": layers}
    plain = open_clip.CLIP(width, vision, text, quick_gelu=True).eval()
    return clip_from_openai_state_dict(plain.state_dict()), plain


def plain_way(
    model: Any, names: Sequence[str], templates: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Class by class, 77 tokens a prompt: all embeddings `(n, T, E)` and unit rows `(n, E)`."""
    tokenizer = open_clip.SimpleTokenizer()
    every, rows = [], []
    with torch.inference_mode():
        for name in names:
            tokens = tokenizer([template.replace("{}", name) for template in templates])
            embedded = model.encode_text(tokens)
            mean = embedded.mean(dim=0)
            every.append(embedded.numpy())
            rows.append((mean / mean.norm()).numpy())
    return np.stack(every), np.stack(rows)


def measure(*, width: int, layers: int, classes: int, plain_classes: int) -> dict[str, float]:
    """Time both ways once and compare them."""
    vlm, plain = random_clip(width=width, layers=layers)
    names = open_clip.IMAGENET_CLASSNAMES[:: len(open_clip.IMAGENET_CLASSNAMES) // classes]
    vocabulary = Vocabulary.from_names(names[:classes])
    chosen = np.linspace(0, len(vocabulary) - 1, plain_classes).round().astype(int)
    sample = [vocabulary.names[i] for i in chosen]
    filled = [template.replace("{}", name) for name in sample for template in CLIP_TEMPLATES]
    plain_way(plain, sample[:1], CLIP_TEMPLATES[:2])
    vlm.text.encode_text(filled[:2])
    fingerprint = vlm.text.fingerprint  # computed once a model, not once a vocabulary

    start = time.process_time()
    every, rows = plain_way(plain, sample, CLIP_TEMPLATES)
    plain_seconds = (time.process_time() - start) * len(vocabulary) / len(sample)
    start = time.process_time()
    encoded = encode_vocabulary(vocabulary, vlm.text, cache=None)
    our_seconds = time.process_time() - start
    if encoded.model != fingerprint:
        raise RuntimeError("the model changed while it was measured")
    cut = vlm.text.encode_text(filled).reshape(every.shape)
    return {
        "classes": len(vocabulary),
        "templates": len(CLIP_TEMPLATES),
        "plain_classes_timed": len(sample),
        "plain_cpu_seconds": round(plain_seconds, 2),
        "our_cpu_seconds": round(our_seconds, 2),
        "ratio": round(plain_seconds / our_seconds, 2),
        "max_difference_embeddings": float(np.abs(cut - every).max()),
        "max_difference_rows": float(np.abs(encoded.matrix[chosen] - rows).max()),
    }


def main() -> None:
    """Measure and print, as text or as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--small", action="store_true", help="width 128, 2 layers, 40 classes")
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--plain-classes", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.small:
        figures = measure(width=128, layers=2, classes=40, plain_classes=chosen.plain_classes)
    else:
        figures = measure(
            width=512, layers=12, classes=chosen.classes, plain_classes=chosen.plain_classes
        )
    if chosen.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:g}")
    print(f"goals: ratio >= 4 ({figures['ratio']:g}), differences <= 1e-5")


if __name__ == "__main__":
    main()
