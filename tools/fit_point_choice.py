"""Fit which of the boxes at a point the built-in model takes.

    python tools/fit_point_choice.py stores/coco_train --validation stores/coco_val [--ship]

Points are drawn from the masks of the stores; the candidates are what the shipped proposal head
answers at them. Printed is the mean intersection over union of the taken boxes with the annotated
ones, beside that of the cell with the best score and that of the best candidate. `--ship` writes
the fit among the assets. To be run again whenever another proposal head is shipped: its scores
would mean something else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from anyregion.compact.assets import (
    POINT_CHOICE,
    PROPOSAL_HEAD,
    read_asset,
    read_manifest,
    start_session,
)
from anyregion.compact.proposal_head import ProposalHead
from anyregion.compact.training.dataset import StoreConfig, open_unnamed_datasets
from anyregion.compact.training.point_choice_fit import (
    PointChoiceOptions,
    PointPrompt,
    fit_point_choice,
    mean_iou_of_choice,
    point_prompts,
)
from ship_trained import DATA, write_asset


def prompts_of(stores: Sequence[str], *, seed: int) -> list[PointPrompt]:
    """The prompts of all masks of some stores."""
    head = ProposalHead(start_session(read_asset(PROPOSAL_HEAD), threads=None, device="cpu"))
    datasets, _ = open_unnamed_datasets("stores", [StoreConfig(store) for store in stores], None)
    return [p for dataset in datasets for p in point_prompts(head, dataset, seed=seed)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="+", metavar="STORE")
    parser.add_argument("--validation", metavar="STORE", help="of other photographs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ship", action="store_true")
    args = parser.parse_args()
    prompts = prompts_of(args.stores, seed=args.seed)
    choice = fit_point_choice(prompts, PointChoiceOptions(seed=args.seed))
    judged = {"fitted on": prompts}
    if args.validation:
        judged["validation"] = prompts_of([args.validation], seed=args.seed)
    for title, some in judged.items():
        best = np.mean([prompt.ious.max() for prompt in some])
        print(
            f"{title}: {len(some):,} prompts; mean IoU of the taken boxes "
            f"{mean_iou_of_choice(some, choice):.3f}, of the cells' best "
            f"{mean_iou_of_choice(some, None):.3f}, of the best candidates {best:.3f}"
        )
    if args.ship:
        command = f"python tools/fit_point_choice.py stores/coco_train --seed {args.seed} --ship"
        content = choice.to_bytes()
        write_asset(
            POINT_CHOICE,
            content,
            command=command,
            proposal_head=read_manifest()[PROPOSAL_HEAD]["sha256"],
            data=DATA,
            licence="Apache-2.0",
        )
        print(f"{len(content):,} bytes")


if __name__ == "__main__":
    main()
