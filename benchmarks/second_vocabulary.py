"""What a second vocabulary on the same image costs, beside encoding the image again for it.

Prints CPU seconds of one thread for both ways, interleaved, their ratio, and how often the image
was encoded. Uses the built-in model and a photo of the examples.

    python benchmarks/second_vocabulary.py [--rounds 10]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

from anyregion import Recognizer, Regions, read_image
from anyregion.baselines.dense import DenseEncoder
from anyregion.compact.model import CompactEmbedder, CompactModel

PHOTO = Path(__file__).parents[1] / "examples" / "coffee.jpg"
FIRST = ["cup", "spoon", "table", "saucer", "coffee"]
SECOND = ["plate", "fork", "tea", "bicycle", "dog"]


class CountingEncoder(DenseEncoder):
    """Counts how many images were encoded."""

    encoded = 0

    def encode_images(self, images):  # type: ignore[no-untyped-def]
        self.encoded += len(images)
        return super().encode_images(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    encoder = CountingEncoder(CompactEmbedder(CompactModel(threads=1)))
    recognizer = Recognizer(encoder, cache=None)
    pixels, regions = (
        read_image(PHOTO),
        Regions.from_boxes([[76, 66, 480, 388], [325, 66, 426, 327]]),
    )
    encoded_again, once = [], []
    recognizer.set_image(pixels)
    for _ in range(rounds):
        recognizer.predict(regions, FIRST)
        start = time.process_time()
        recognizer.predict(regions, SECOND)
        once.append(time.process_time() - start)
        before = encoder.encoded
        recognizer.predict(regions, FIRST)
        start = time.process_time()
        recognizer.set_image(pixels)
        recognizer.predict(regions, SECOND)
        encoded_again.append(time.process_time() - start)
        if encoder.encoded != before + 1:
            raise SystemExit("an image was encoded without set_image")
    slow, fast = statistics.median(encoded_again), statistics.median(once)
    print(f"image encoded again for the second vocabulary: {slow * 1e3:8.2f} ms")
    print(f"second vocabulary on the encoded image:        {fast * 1e3:8.2f} ms")
    print(
        f"ratio {slow / fast:.1f}; {encoder.encoded} encodings for {rounds + 1} calls of set_image"
    )


if __name__ == "__main__":
    main()
