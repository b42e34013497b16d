"""Put what `anyregion train` learned among the assets of the built-in model.

    python tools/ship_trained.py --region-head runs/compact --mask-head runs/compact_masks \\
        --proposal-head runs/compact_finder

Each is a run's folder; its `model/` is copied, and the manifest says which recipe, seed, commit and
data it came from. The image and text encoders stay as `build_compact_assets.py` left them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import yaml

ASSETS = Path(__file__).parents[1] / "src" / "anyregion" / "compact" / "assets"
PARTS = {
    "region_head": ("namer.onnx", "namer.safetensors"),
    "mask_head": ("mask_head.onnx",),
    "proposal_head": ("finder.onnx",),
}
DATA = (
    "COCO 2017, 1,550 photographs (annotations CC BY 4.0, photographs under their own Flickr terms)"
)


def origin(run: Path) -> dict[str, Any]:
    """What the manifest says of a run."""
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    git = run / "git.json"
    state = json.loads(git.read_text(encoding="utf-8")) if git.is_file() else {}
    commit = state.get("package", {}).get("commit")
    task, steps, seed = settings["task"], settings["steps"], settings["seed"]
    return {
        "command": f"anyregion train {task} --steps {steps} --seed {seed} "
        "(see docs/results/compact.md)",
        "commit": commit or "unknown",
        "data": DATA,
        "licence": "Apache-2.0",
    }


def write_asset(name: str, content: bytes, **about: Any) -> int:
    """Write one asset and all that the manifest says of it; returns the bytes of all assets."""
    path = ASSETS / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    (ASSETS / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][name] = {"sha256": digest, "bytes": len(content), **about}
    manifest["bytes"] = sum(f["bytes"] for f in manifest["files"].values())
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return int(manifest["bytes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part in PARTS:
        parser.add_argument(f"--{part.replace('_', '-')}", type=Path, metavar="RUN")
    args = vars(parser.parse_args())
    total = 0
    for part, names in PARTS.items():
        run: Path | None = args[part]
        if run is None:
            continue
        for name in names:
            source = run / "model" / name
            if not source.is_file():
                sys.exit(f"{source}: missing; nothing of {part} was shipped")
        for name in names:
            total = write_asset(name, (run / "model" / name).read_bytes(), **origin(run))
    print(f"{total / 1e6:.2f} MB in {ASSETS}" if total else "nothing to ship")


if __name__ == "__main__":
    main()
