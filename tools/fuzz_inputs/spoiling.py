"""Ways to spoil bytes, JSON, text and arrays, and odd values to put in their place."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rng = random.Random

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
# what a file of annotations or settings may hold in place of what belongs there
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"),
    10**30, -(10**30), 2**31, 2**63, "", " ", "x", "0", "1", "nan", "true", "a\x00b", "../../a.png",
    "/etc/passwd", "http://127.0.0.1:9/a.png", "C:\\data\\0.png", "\ud83d", "\u200b",
    "caf\u0065\u0301", "%30.png", "\u202ecat", "x" * 5000, [], [[]], {}, {"a": 1},
    [None], [1, 2], [0, 0, 0, 0],
    [1, 2, 3, 4, 5], ["1", "2", "3", "4"], [float("nan")] * 4, [1e300] * 4, DEEP,
]  # fmt: skip
ODD_TEXTS = [
    "", "nan", "inf", "-1", "1e400", "0x10", "1_000", ".", "1e", "&a [*a]",
    "!!python/name:os.system", "*x", "- - - -", "[[[[[[", "{{{{{{", "'", '"',
    "\x00", "\ufeff", "\u2028", "\ud83d", "~", "? ", "<<: ",
    "---", "...", "%YAML 9.9", "!!binary x", "!!timestamp 2026-99-99", "!!float x", "0b", "1:2:3",
    "9" * 5000, "\t", "&a", "|", ">", "@", "`",
]  # fmt: skip


def spoil_bytes(rng: Rng, content: bytes, *, times: int | None = None) -> bytes:
    """Flip, cut out, repeat, insert or truncate."""
    data = bytearray(content)
    for _ in range(times or rng.randint(1, 4)):
        if not data:
            break
        at = rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(min(len(data), 64))
        length = rng.randint(1, 16)
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice([0, 1, 127, 128, 255])
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[max(at - length, 0) : at]
            case 4:
                data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)])
            case _:
                if rng.random() < 0.3:
                    del data[at:]
    return bytes(data)


def spoil_json(rng: Rng, value: Any) -> Any:
    """A copy with one to three nodes replaced, left out, repeated or renamed."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        nodes: list[tuple[Any, Any]] = []  # container and key
        stack = [value]
        while stack:
            node = stack.pop()
            keys = node.keys() if isinstance(node, dict) else range(len(node))
            for key in list(keys)[:200]:
                nodes.append((node, key))
                if isinstance(node[key], (dict, list)) and len(nodes) < 3000:
                    stack.append(node[key])
        if not nodes:
            return rng.choice(ODD_VALUES)
        node, key = rng.choice(nodes)
        match rng.randrange(5):
            case 0 if isinstance(node, dict):
                del node[key]
            case 1 if isinstance(node, dict):
                node[str(rng.choice(["id", "name", "x", "", "bbox", "\ud83d"]))] = node.pop(key)
            case 2 if isinstance(node, list):
                node.insert(key, node[key])
            case _:
                node[key] = rng.choice(ODD_VALUES)
    return value


def write_json(rng: Rng, path: Path, value: Any) -> None:
    """As some program would write it, sometimes with bytes that are no JSON."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7, indent=rng.choice([None, 1]))
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        content = spoil_bytes(rng, content)
    if rng.random() < 0.03:
        content = text.encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"]), "surrogatepass")
    path.write_bytes(content)


def spoil_text(rng: Rng, text: str) -> bytes:
    """Lines repeated or lost, words replaced by odd ones, bytes damaged."""
    lines = text.splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines)) if lines else 0
        match rng.randrange(5):
            case 0 if lines:
                lines.insert(at, lines[at])
            case 1 if lines:
                del lines[at]
            case 2 if lines:
                lines[at] = rng.choice(["  ", "\t", "- ", ""]) + lines[at]
            case _ if lines:
                words = lines[at].replace(",", " , ").split(" ")
                words[rng.randrange(len(words))] = rng.choice(ODD_TEXTS)
                lines[at] = " ".join(words).replace(" , ", ",")
            case _:
                lines = [rng.choice(ODD_TEXTS)]
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    return spoil_bytes(rng, content) if rng.random() < 0.2 else content


def spoil_array(rng: Rng, array: NDArray[Any]) -> NDArray[Any]:
    """A copy of another shape or type, or with some numbers that do not belong there."""
    match rng.randrange(7):
        case 0:
            return array[: len(array) // 2] if array.ndim else array.reshape(1)
        case 1:
            return np.concatenate([array, array]) if array.ndim else array.reshape(1, 1)
        case 2:
            return array.reshape(-1) if array.ndim > 1 else array[..., None]
        case 3:
            with np.errstate(all="ignore"):
                return array.astype(rng.choice([np.float64, np.int64, np.float16, np.uint8]))
        case 4:
            return array[:0] if array.ndim else array
    array = array.copy()
    flat = array.reshape(-1)
    for _ in range(rng.randint(1, 3) if flat.size else 0):
        at = rng.randrange(flat.size)
        if array.dtype.kind == "f":
            flat[at] = rng.choice([np.nan, np.inf, -1.0, 0.0, 6e4])
        elif array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            flat[at] = rng.choice([limits.min, limits.max, 0, 1, limits.max // 2])
    return array


def spoil_arrays(rng: Rng, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A copy in which one or two arrays are spoiled, gone, or under another name."""
    arrays = dict(arrays)
    for name in rng.sample(sorted(arrays), min(rng.randint(1, 2), len(arrays))):
        match rng.randrange(8):
            case 0:
                del arrays[name]
            case 1:
                arrays[rng.choice(["x", name + ".x", "0/x", "1/last"])] = arrays.pop(name)
            case _:
                arrays[name] = spoil_array(rng, arrays[name])
    return arrays
