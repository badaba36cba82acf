"""The tasks, by name. A task reads problems and grades answers; see `tsd.protocols.Task`."""

from tsd.config import TaskConfig
from tsd.protocols import Task
from tsd.tasks.countdown import Countdown


def make_task(config: TaskConfig) -> Task:
    """The task a configuration names. Raises ValueError for an unknown name."""
    if config.name == "countdown":
        return Countdown(config.num_numbers, rare=config.rare)
    raise ValueError(f"task.name: expected countdown, found {config.name!r}")
