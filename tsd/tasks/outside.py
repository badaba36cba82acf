"""Tasks of others: what a package registers under the entry-point group `tsd.tasks`, or a class in a user's own file.

Either is a callable that takes `TaskConfig` and returns a `tsd.types.Task`. Knows nothing about built-in tasks.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from tsd.config import TaskConfig
from tsd.types import Task

GROUP = "tsd.tasks"
OURS = tuple(str(Path(__file__).with_name(name)) for name in ("outside.py", "checked.py", "rewards.py", "limit.py"))
"""Files whose lines say nothing of what a task did."""
PARTS = ("name", "parse", "problems", "prompt", "grade")
"""What a task must have."""


def offered(group: str, registered: Iterable[EntryPoint] | None = None) -> dict[str, EntryPoint]:
    """What packages register under an entry-point group, by name; `registered` in place of looking it up."""
    return {point.name: point for point in (entry_points(group=group) if registered is None else registered)}


def make_outside(config: TaskConfig, built_in: Iterable[str], registered: Iterable[EntryPoint] | None = None) -> Task:
    """The task that the name stands for; `registered` is what packages offer, where that is not to be looked up.

    Raises ValueError for a name nobody has, and for one that cannot be loaded or made.
    """
    file, colon, attribute = config.name.rpartition(":")
    if colon and file.endswith(".py"):
        return _made(config, lambda: getattr(_module(Path(file).expanduser()), attribute))
    found = offered(GROUP, registered)
    if config.name not in found:
        known = ", ".join(sorted({*built_in, *found}))
        raise ValueError(f"task.name: expected one of {known}, or FILE.py:CLASS, found {config.name!r}")
    return _made(config, found[config.name].load)


def _module(path: Path) -> object:
    """A file as a module, under a name that no other has."""
    name = f"tsd_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None
    # Known by its name before it runs, as its own dataclasses ask.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _made(config: TaskConfig, load: Callable[[], object]) -> Task:
    """Whatever somebody else's code raises is one line here."""
    try:
        make = load()
        if not callable(make):
            raise TypeError(f"expected a callable, found {type(make).__name__}")
        task: Task = make(config)
        if missing := [part for part in PARTS if not hasattr(task, part)]:
            raise TypeError(f"what it makes has no {', '.join(missing)}; see tsd.types.Task")
    except Exception as error:
        raise ValueError(f"task.name: {config.name!r} cannot be loaded: {error!r}{place(error)}") from error
    return task


def place(error: BaseException, file: str | None = None) -> str:
    """Where it comes from: the last line of that file that led to it, else the last line of all but tsd's wrapping."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in OURS]
    own = [frame for frame in frames if frame.filename == file] or frames
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
