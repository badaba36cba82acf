"""Every runtime fault tsd reports. Bad user input is a `ValueError`; our own bugs are `assert`s."""


def leaves(error: BaseException) -> list[BaseException]:
    """What a group of errors holds, however deep, in order; of any other error itself.

    The first is what went wrong: the others are tasks that were cancelled for it, or failed with it.
    """
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for one in error.exceptions for leaf in leaves(one)]


class TsdError(Exception):
    """Base of tsd's runtime faults; the command line prints its message as one line."""


class EngineError(TsdError):
    """Raised when an engine cannot start, generate or take new weights."""


class WeightsError(TsdError):
    """Raised when a weight update is incomplete, damaged, or not for this model."""


class TransportError(TsdError):
    """Raised when a peer does not answer by its deadline, or will have nothing to do with this one."""


class FrameError(TransportError):
    """Raised when a frame that came in is damaged, or its parts do not fit together."""


class ProtocolError(FrameError):
    """Raised when a frame is whole, but comes from another version of tsd."""


class CheckpointError(TsdError):
    """Raised when a checkpoint cannot be written, or read back."""


class DiskError(TsdError):
    """Raised when the disk does not take what a run must write."""


class ProcessError(TsdError):
    """Raised when a process of the run ends when it should not."""


class TaskError(TsdError):
    """Raised when a task of a user's own fails, or returns what it must not, or when a reward hangs."""


class DivergedError(TsdError):
    """Raised when training meets a loss that is not finite several times in a row."""
