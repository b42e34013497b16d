"""What every training shares: run folder, loop, schedules, checkpoints, logs. Needs torch."""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.training.config import LoopConfig as LoopConfig
    from anyregion.training.loop import Callbacks as Callbacks
    from anyregion.training.loop import fit as fit
    from anyregion.training.task import Task as Task

__getattr__, __dir__ = attach(
    __name__, {"config": "LoopConfig", "loop": "Callbacks fit", "task": "Task"}
)
