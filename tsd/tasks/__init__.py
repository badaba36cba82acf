"""The tasks, by name. A task reads problems and grades answers; see `tsd.types.Task`."""

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint

from tsd.config import TaskConfig
from tsd.tasks.checked import Checked
from tsd.tasks.countdown import Countdown
from tsd.tasks.gym import Gym
from tsd.tasks.outside import make_outside
from tsd.tasks.words import Words
from tsd.types import Task

BUILT_IN: dict[str, Callable[[TaskConfig], Task]] = {
    "countdown": lambda config: Countdown(config.num_numbers, rare=config.rare),
    "words": Words,
    "reasoning-gym": lambda config: Gym(config.dataset, config.options),
}


def make_task(config: TaskConfig, registered: Iterable[EntryPoint] | None = None) -> Task:
    """The task a configuration names; `registered` is what packages offer, where that is not to be looked up.

    Raises ValueError for an unknown name, a task that cannot be loaded, and settings that are none of the task's.
    """
    make = BUILT_IN.get(config.name)
    return Checked(make_outside(config, BUILT_IN, registered)) if make is None else make(config)
