"""The tasks, by name. A task reads problems and grades answers; see `tsd.types.Task`."""

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint

from tsd.config import TaskConfig
from tsd.tasks.checked import Checked
from tsd.tasks.countdown import Countdown
from tsd.tasks.gym import Gym
from tsd.tasks.mathematics import Math
from tsd.tasks.outside import make_outside
from tsd.tasks.words import Words
from tsd.types import Task

BUILT_IN: dict[str, Callable[[TaskConfig], Task]] = {
    "countdown": Countdown,
    "words": Words,
    "math": Math,
    "reasoning-gym": Gym,
}


def make_task(config: TaskConfig, registered: Iterable[EntryPoint] | None = None) -> Task:
    """The task a configuration names; `registered` is what packages offer, where that is not to be looked up.

    Raises ValueError for an unknown name, a task that cannot be loaded, and settings that are none of the task's.
    """
    make = BUILT_IN.get(config.name)
    if make is None:
        return Checked(make_outside(config, BUILT_IN, registered), config.grade_timeout_s)
    return make(config)
