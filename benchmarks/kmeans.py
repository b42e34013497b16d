"""k-means of R2O's refinement against scikit-learn's, and a pass against two matrix products.

    python benchmarks/kmeans.py            # one thread, then torch's default number of threads
    python benchmarks/kmeans.py --quick    # fewer rows and repeats: seconds

Both run in this process, in turn, on the same rows and the same number of threads: the medians of
`--repeats` runs, CPU and wall. "same start" gives both the same start centres and compares labels;
"k-means++" lets each draw its own start, so the number of passes differs. scikit-learn runs with
`n_init=1, tol=0, algorithm="lloyd"`. "per pass" is what a further pass costs, (all passes - 1 pass)
/ (passes computed - 1), against the two products of the textbook's pass, `rows @ centres.T` and
`one_hot.T @ rows`. Two kinds of rows, all at length 1: "features", like a network's (not negative,
overlapping kinds), and "blobs", normal ones about random centres.

Exits 1 if labels from the same start differ.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import one_hot

from anyregion.torch_utils.kmeans import Draws, draw, kmeans, start_points

MAX_PASSES = 200


def make_rows(kind: str, groups: int, count: int, width: int, *, kinds: int) -> Tensor:
    """`(groups, count, width)` float32 at length 1, always the same."""
    rng = np.random.default_rng([len(kind), groups, count, width])
    shape = (groups, kinds, width)
    of = rng.integers(kinds, size=(groups, count, 1))
    if kind == "features":
        means = np.abs(rng.normal(size=shape)) * (rng.random(shape) < 0.4)
        rows = np.take_along_axis(means, of, axis=1)
        rows = rows + 2.0 * np.abs(rng.normal(size=rows.shape))
    else:
        means = rng.normal(size=shape)
        rows = np.take_along_axis(means, of, axis=1)
        rows = rows + 4.0 * rng.normal(size=rows.shape)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    return torch.from_numpy(rows.astype(np.float32))


def in_turn(*ways: Callable[[], object], repeats: int) -> list[tuple[float, float]]:
    """Median (CPU, wall) seconds of each way, run one after the other `repeats` times."""
    timings: list[list[tuple[float, float]]] = [[] for _ in ways]
    for way in ways:
        way()
    for _ in range(repeats):  # in turn: what else the machine does then hits all ways alike
        for way, seconds in zip(ways, timings, strict=True):
            time.sleep(0.1)  # the threads of the way before may still spin, on this one's cores
            cpu, wall = time.process_time(), time.perf_counter()
            way()
            seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
    return [
        (statistics.median(c for c, _ in result), statistics.median(w for _, w in result))
        for result in timings
    ]


def sklearn_kmeans(rows: np.ndarray, k: int, *, init: np.ndarray | str) -> list[KMeans]:
    """scikit-learn's k-means of each group in turn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [
            KMeans(
                k,
                init=init if isinstance(init, str) else init[group],
                n_init=1,
                tol=0,
                max_iter=MAX_PASSES,
                algorithm="lloyd",
                random_state=0,
            ).fit(rows[group])
            for group in range(len(rows))
        ]


def compare(name: str, rows: Tensor, k: int, *, repeats: int) -> bool:
    """Print one case; whether the labels from the same start are the same."""
    groups, array = len(rows), rows.numpy()
    draws: Draws = draw([np.random.default_rng([0, group]) for group in range(groups)], k)
    index = start_points(rows, k, draws=draws)
    start = rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2]))
    result, other = kmeans(rows, k, start=start), sklearn_kmeans(array, k, init=start.numpy())
    same = all(
        np.array_equal(labels.numpy(), fitted.labels_)
        for labels, fitted in zip(result.labels, other, strict=True)
    )
    passes = result.passes.double()
    their_passes = np.array([fitted.n_iter_ for fitted in other])
    print(
        f"{name}: passes {passes.mean():.1f} (scikit-learn {their_passes.mean():.1f}), "
        f"labels {'the same' if same else 'DIFFER'}"
    )
    timed = in_turn(
        lambda: kmeans(rows, k, start=start),
        lambda: sklearn_kmeans(array, k, init=start.numpy()),
        lambda: kmeans(rows, k, draws=draws),
        lambda: sklearn_kmeans(array, k, init="k-means++"),
        repeats=repeats,
    )
    for case, own, reference in (
        ("same start", timed[0], timed[1]),
        ("k-means++ ", timed[2], timed[3]),
    ):
        print(
            f"  {case}  CPU {own[0] * 1e3:8.1f} ms against {reference[0] * 1e3:8.1f} ms, "
            f"ratio {own[0] / reference[0]:.2f};  wall {own[1] * 1e3:8.1f} ms against "
            f"{reference[1] * 1e3:8.1f} ms, ratio {own[1] / reference[1]:.2f}"
        )
    # The last pass is not computed: its labels are known. Groups leave when they are finished, so
    # passes are counted up to the first one that does.
    computed = int(result.passes.min()) - 1
    if computed < 2:
        return same
    hot = one_hot(result.labels, k).to(rows)
    timed = in_turn(
        lambda: kmeans(rows, k, start=start, max_passes=computed),
        lambda: kmeans(rows, k, start=start, max_passes=1),
        lambda: (torch.bmm(rows, start.mT), torch.bmm(hot.mT, rows)),
        repeats=3 * repeats,
    )
    for clock, many, one, products in zip(("CPU ", "wall"), *timed, strict=True):
        a_pass = (many - one) / (computed - 1)
        print(
            f"  per pass    {clock} {a_pass * 1e3:6.2f} ms against two products "
            f"{products * 1e3:6.2f} ms, ratio {a_pass / products:.2f}"
        )
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and repeats")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", help="default: 1 and torch's own number")
    options = parser.parse_args()
    batch, images = (800, 16) if options.quick else (3200, 128)
    repeats = 2 if options.quick else options.repeats
    same = True
    for threads in options.threads or sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            print(f"--- {threads} thread(s)")
            for kind in ("features", "blobs"):
                rows = make_rows(kind, 1, batch, 1024, kinds=60)
                for k in (128, 4):
                    name = f"{kind}, scope batch, {batch} x 1024, K = {k}"
                    same &= compare(name, rows, k, repeats=repeats)
                rows = make_rows(kind, images, 100, 256, kinds=40)
                name = f"{kind}, scope image, {images} x 100 x 256, K = 32"
                same &= compare(name, rows, 32, repeats=repeats)
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
