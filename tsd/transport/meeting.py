"""Where the trainer is, and whom to ask for weights: a small file beside a generator, written anew when that changes.

Only where a trainer may come back at another address: on a cluster. Knows nothing about sockets.
"""

from pathlib import Path

import msgspec

from tsd.config.whole import write_whole

MEETING_FILE = "meeting.json"


class Meeting(msgspec.Struct, frozen=True, kw_only=True):
    """What a generator is told."""

    trainer: str
    """What `Addresses` of the trainer's sockets are made of."""
    parent: str = ""
    """Where another generator hands weights on; empty where this one is to ask the trainer."""


def write_meeting(run_dir: Path, meeting: Meeting) -> None:
    """As a whole."""
    write_whole(run_dir / MEETING_FILE, msgspec.json.encode(meeting))


def read_meeting(run_dir: Path) -> Meeting | None:
    """None where there is no such file."""
    try:
        return msgspec.json.decode((run_dir / MEETING_FILE).read_bytes(), type=Meeting)
    except FileNotFoundError:
        return None
