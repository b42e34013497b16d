"""Write what trainings from the built-in region head keep: features of regions, no photographs.

    python tools/build_kept_regions.py stores/coco_train

Draws regions of the store that the head was trained on, annotated ones and random ones, and writes
their pooled features and the head's answers among the assets, with an entry in the manifest. To be
run again whenever another region head is shipped.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from safetensors.numpy import save

from anyregion.compact.assets import KEPT_REGIONS
from anyregion.compact.conse import load_conse
from anyregion.compact.region_head import INPUTS, extract_region_features
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.compact.training.dataset import open_named_dataset, read_pyramid
from anyregion.compact.training.region_task import sample_boxes
from anyregion.compact.training.start import built_in_module
from anyregion.data.store.store import Store
from ship_trained import DATA, write_asset

REGIONS = 600
RANDOM_BOXES = 4  # an image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    dataset = open_named_dataset(Store(parser.parse_args().store), CompactTextEncoder())
    module, conse, draw = built_in_module(), load_conse(), np.random.default_rng(0)
    pooled, answers = [], []
    for image in dataset.images.tolist():
        pyramid = read_pyramid(dataset, image)
        boxes, _ = dataset.labelled(image)
        boxes = sample_boxes(boxes, pyramid.size, draw, jitter=0.1, anywhere=RANDOM_BOXES)
        features = extract_region_features(pyramid, boxes, conse)
        with torch.inference_mode():
            inputs = [torch.from_numpy(getattr(features, name)) for name in INPUTS]
            answers.append(module([inputs])[0].numpy().astype(np.float16))
        pooled.append(features.pooled.astype(np.float16))
    rows = draw.permutation(sum(map(len, pooled)))[:REGIONS]
    arrays = {"pooled": np.concatenate(pooled)[rows], "answers": np.concatenate(answers)[rows]}
    content = save(arrays)
    write_asset(
        KEPT_REGIONS,
        content,
        command="python tools/build_kept_regions.py stores/coco_train",
        data=DATA,
        licence="Apache-2.0",
    )
    print(f"{len(rows)} regions, {len(content) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
