"""What a training has to supply to the loop: RegionSpot, `compact`'s modules, R2O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from anyregion.images import Pixels
from anyregion.training.config import LoopConfig


class Task(Protocol):
    """A module, the images of every step, and their losses.

    Everything random follows from the seed and the step alone (and, within a step, from the
    item's position in it): a run that was killed goes on as if it had not been, and several
    processes see what one would.

    Attributes:
        module: what learns, and nothing that does not.
    """

    module: nn.Module

    def plan(self, step: int) -> Sequence[Any]:
        """The items of step `step` (from 0), of all processes together. Cheap."""
        ...

    def load(self, item: Any) -> Any:
        """Read one item; called in reader threads, ahead of time."""
        ...

    def losses(self, module: nn.Module, examples: Sequence[Any]) -> dict[str, Tensor]:
        """Losses of each example, `(len(examples),)` each; `loss` is the one that is descended.

        Args:
            module: `self.module`, perhaps wrapped for several processes: call it, no attribute.
            examples: what `load` returned.
        """
        ...

    def describe(self, item: Any) -> str:
        """The item in words, for messages: the image's file, and whether it is mirrored."""
        ...

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Figures on data not trained on; empty where there is none."""
        ...

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write what was learned, ready for use, into `folder`."""
        ...


@runtime_checkable
class About(Protocol):
    """A task that says, for the run's card, what it learns from and under which terms."""

    def about(self) -> Mapping[str, str]:
        """Lines of the card: data sets, their terms, frozen models."""
        ...


@runtime_checkable
class Pictured(Protocol):
    """A task that can show what it has learned."""

    def pictures(self, module: nn.Module) -> Mapping[str, Pixels]:
        """A few pictures by name, always of the same images."""
        ...


@runtime_checkable
class Paced(Protocol):
    """A task that counts in epochs, where the loop counts steps."""

    def pace(self, config: LoopConfig) -> LoopConfig:
        """The loop's settings, with what the task decides filled in."""
        ...


@runtime_checkable
class Stepwise(Protocol):
    """A task whose losses depend on where the training stands."""

    def begin(self, step: int) -> float:
        """Called before the losses of `step`; returns what the learning rate is multiplied by."""
        ...


@runtime_checkable
class Advising(Protocol):
    """A task that can tell from its figures that a training goes wrong."""

    def advise(self, figures: Mapping[str, float]) -> Sequence[str]:
        """What is wrong by the figures of `validate`, and what may help; empty if nothing is."""
        ...
