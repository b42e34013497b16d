"""The contract between a training and the loop: what a task supplies, and the hooks it may use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from anyregion.errors import InputError, SetAside
from anyregion.images import Pixels
from anyregion.training.config import Direction, LoopConfig

# names that metrics had before, in configurations and in folders of runs
RENAMED_METRICS = {
    "class_averaged": "mean_class_accuracy",
    "mean_class": "mean_class_accuracy",
    "mask_iou": "mean_iou",
    "mask_score_auroc": "auroc",
}


@dataclass(frozen=True)
class Metric:
    """What a number that `validate` returns is.

    Attributes:
        description: one line.
        higher_is_better: False where less of it is better.
    """

    description: str
    higher_is_better: bool = True


# what `evaluation.metrics.accuracy.accuracies` returns
ACCURACY_METRICS = {
    "top1": Metric("share of the regions whose best name is the annotated one"),
    "top5": Metric("share whose annotated name is among the five best"),
    "mean_class_accuracy": Metric("top1 of each class that occurs, averaged over the classes"),
}


class Task(ABC):
    """A module, the images of every step, and their losses.

    Everything random follows from the seed and the step alone (and, within a step, from the
    item's position in it): a run that was killed goes on as if it had not been, and several
    processes see what one would.

    Attributes:
        module: what learns, and nothing that does not.
        metrics: what `validate` returns, by name; `best` is one of them. Empty without validation.
        set_aside: images that cannot be used, and why.
    """

    module: nn.Module
    metrics: Mapping[str, Metric] = {}
    set_aside: Sequence[SetAside] = ()

    @abstractmethod
    def plan(self, step: int) -> Sequence[Any]:
        """The items of step `step` (from 0), of all processes together. Cheap."""

    @abstractmethod
    def load(self, item: Any) -> Any:
        """Read one item; called in reader threads, ahead of time."""

    @abstractmethod
    def losses(self, module: nn.Module, examples: Sequence[Any]) -> dict[str, Tensor]:
        """Losses of each example, `(len(examples),)` each; `loss` is the one that is minimised.

        Args:
            module: `self.module`, perhaps wrapped for several processes: call it, no attribute.
            examples: what `load` returned.
        """

    @abstractmethod
    def describe(self, item: Any) -> str:
        """The item in words, for messages: the image's file, and whether it is mirrored."""

    @abstractmethod
    def validate(self, module: nn.Module) -> dict[str, float]:
        """The values of `metrics` on data not trained on."""

    @abstractmethod
    def save(self, module: nn.Module, folder: Path) -> None:
        """Write what was learned, ready for use, into `folder`."""

    # hooks: they do nothing unless overridden

    def notes(self, *, trained: bool = False) -> Sequence[str]:
        """What is worth knowing of the task before it is trained, or once it was."""
        return ()

    def on_fit_start(self, config: LoopConfig) -> LoopConfig:
        """The loop's settings, completed by what the task decides (it may count in epochs)."""
        return config

    def rate_scales(self) -> Mapping[str, float]:
        """What the learning rate is multiplied by for each parameter of `module`, by its name; 1
        for a parameter without one."""
        return {}

    def on_step_start(self, step: int) -> float:
        """Called before the losses of `step`; the learning rate is multiplied by the result."""
        return 1.0

    def advise(self, metrics: Mapping[str, float]) -> Sequence[str]:
        """What is wrong by the values that `validate` returned, and what may help."""
        return ()

    def pictures(self, module: nn.Module) -> Mapping[str, Pixels]:
        """A few pictures of what was learned by name, always of the same images."""
        return {}

    def rehearse(self, module: nn.Module) -> Mapping[str, str]:
        """Lines of what a dry run tries beside one step, such as a look at one validation image."""
        return {}

    def card(self) -> Mapping[str, str]:
        """Lines of the run's card: data sets, their terms, frozen models."""
        return {}


def resolve_best(config: LoopConfig, metrics: Mapping[str, Metric]) -> LoopConfig:
    """The loop's settings with `best_is` as the metric `best` declares it, unless it is set.

    Raises:
        InputError: `best` is not measured; names the metrics that are.
    """
    if config.best is None:
        return config
    if metric := metrics.get(config.best):
        usual: Direction = "highest" if metric.higher_is_better else "lowest"
        return replace(config, best_is=config.best_is or usual)
    if not metrics:
        raise InputError(f"best: {config.best} is measured on validation data: name that set")
    names, renamed = ", ".join(metrics), RENAMED_METRICS.get(config.best)
    if renamed in metrics:
        raise InputError(f"best: {config.best!r} is called {renamed} now; the metrics are {names}")
    raise InputError(f"best: no metric {config.best!r}: there are {names}")
