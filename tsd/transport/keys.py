"""CURVE keys of a run, on disk: a pair for its trainers, a pair for its generators, each key in a file of one line.

A machine of generators needs `generator.secret` and `trainer.public` alone, one of trainers the other two. Does not
import zmq until keys are made, so that a launch can look at them and still answer at once. Knows nothing about sockets.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["trainer", "generator"]
OTHER: dict[Role, Role] = {"trainer": "generator", "generator": "trainer"}
Z85 = re.compile(rb"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
"""How ZeroMQ writes a key of 32 bytes."""
OTHERS = 0o077
"""Rights of anyone but the owner."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What one end of a socket needs."""

    public: bytes
    secret: bytes
    other: bytes
    """The public key of whom it talks to."""

    @property
    def among(self) -> "Keys":
        """For those of one role among themselves: each has the same pair."""
        return Keys(self.public, self.secret, self.public)


def make_keys(directory: Path) -> list[Path]:
    """Writes new keys, for this user alone, and returns the files. Raises ValueError where something is there."""
    from zmq import curve_keypair

    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise ValueError(
            f"{directory} is there already, and keys are never overwritten; name a new directory"
        ) from None
    made = []
    for role in OTHER:
        for kind, key in zip(("public", "secret"), curve_keypair(), strict=True):
            made.append(_file(directory, role, kind))
            with open(os.open(made[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(key + b"\n")
    return made


def load_keys(directory: str, role: Role) -> Keys | None:
    """For one end; None where no directory is named.

    Raises ValueError for a file that is not there, is no key, or can be read or written by others.
    """
    if not directory:
        return None
    wanted = ((role, "public"), (role, "secret"), (OTHER[role], "public"))
    return Keys(*(_read(_file(Path(directory).expanduser(), whose, kind)) for whose, kind in wanted))


def _file(directory: Path, role: Role, kind: str) -> Path:
    return directory / f"{role}.{kind}"


def _read(path: Path) -> bytes:
    try:
        mode, key = path.stat().st_mode & 0o777, path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"transport.keys: cannot read {path}: {error.strerror}; `tsd keys DIR` makes keys") from None
    if mode & OTHERS:
        raise ValueError(f"transport.keys: others may use {path} (mode {mode:o}); run chmod 600 {path}")
    if not Z85.fullmatch(key):
        raise ValueError(f"transport.keys: {path} holds no key; `tsd keys DIR` makes keys")
    return key
