"""Ship the mean of a trained mask head and of the one that its training began at.

    python tools/ship_mean_mask_head.py runs/compact_masks

The run's folder says where it began (`compact_masks.start`). The mean is exported, and replaces the
mask head among the assets of the built-in model; the manifest says which training it came from.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import yaml

from anyregion.compact.assets import MASK_HEAD
from anyregion.compact.training.checkpoint import read_mask_head
from anyregion.compact.training.export import export_mask_head, mean_of_heads
from ship_trained import origin, write_asset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    start = Path(settings["compact_masks"]["start"])
    trained = run / "model" / Path(MASK_HEAD).with_suffix(".safetensors")
    mean = mean_of_heads(read_mask_head(start), read_mask_head(trained))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MASK_HEAD
        export_mask_head(mean, path)
        content = path.read_bytes()
    about = origin(run)
    about["command"] += ", then python tools/ship_mean_mask_head.py"
    write_asset(MASK_HEAD, content, **about)
    print(f"{len(content):,} bytes")


if __name__ == "__main__":
    main()
