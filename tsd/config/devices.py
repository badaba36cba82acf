"""Which device does what: the `--gpus` grammar, and the GPUs of this machine; on a cluster, how many do what.

Knows nothing about the processes that will run there, and does not import torch.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

CPU = "cpu"
ROLES = ("gen", "train")
EXAMPLE = "0-5:gen,6-7:train, or 0:gen,0:train on one GPU, or cpu:gen,cpu:train without GPUs"
COUNTS_EXAMPLE = "12:gen,4:train, or 3x2:gen,2:train for 3 generators of 2 GPUs each, or 2xcpu:gen,cpu:train"
TOGETHER = "+"
"""Between the GPUs of one generator."""
LARGEST_GPU = 1023
NVIDIA_SMI_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Placement:
    """The devices of each role, one process for each: `cpu`, the number of a GPU, which processes may share, or several
    such as `0+1`, for one generator over all of them."""

    gen: tuple[str, ...]
    train: tuple[str, ...]

    @property
    def gpus(self) -> tuple[str, ...]:
        """Each once, also where several processes run on it."""
        return tuple(dict.fromkeys(self._uses()))

    def _uses(self) -> list[str]:
        """A GPU for each process that runs on it."""
        devices = [one for device in (*self.gen, *self.train) for one in device.split(TOGETHER)]
        return [device for device in devices if device != CPU]

    @property
    def gpus_each(self) -> int:
        """GPUs of each generator."""
        return len(self.gen[0].split(TOGETHER))

    def is_shared(self, device: str) -> bool:
        """Whether several processes run on this GPU, or on one of these."""
        return any(self._uses().count(gpu) > 1 for gpu in device.split(TOGETHER))


def parse_gpus(spec: str) -> Placement:
    """Reads `devices:role,...` where devices are `cpu`, `3`, `0-5`, `0+1`, or several with commas between.

    Raises ValueError with the position of the first mistake and an example.
    """
    placed: dict[str, list[str]] = {role: [] for role in ROLES}
    waiting: list[tuple[int, str]] = []  # devices whose role is still to come
    for position, devices, role in _items(spec):
        waiting += [(position, device) for device in _expand(spec, position, devices)]
        if role is None:
            continue
        for at, device in waiting:
            if problem := _misplaced(device, role, placed[role]):
                _refuse(spec, at, problem)
            placed[role].append(device)
        waiting = []
    if waiting:
        _refuse(spec, len(spec), "expected :gen or :train")
    for role, given in placed.items():
        if not given:
            _refuse(spec, len(spec), f"no device has the role {role}")
    if len({device == CPU for device in placed["train"]}) > 1:
        _refuse(spec, len(spec), "trainers are all on GPUs or all on the CPU")
    return Placement(tuple(placed["gen"]), tuple(placed["train"]))


def parse_counts(spec: str) -> Placement:
    """Reads `12:gen,4:train`, on a cluster: how many processes of each role, with a GPU each, `3x2:gen` with two, or
    `2xcpu:gen` on CPUs. The GPUs are numbered through, as if they were one machine's.

    Raises ValueError with the position of the first mistake and an example.
    """
    placed: dict[str, list[str]] = {role: [] for role in ROLES}
    first, waiting = 0, list[str]()
    for position, words, role in _items(spec):
        match = re.fullmatch(r"(?:([0-9]{1,4})(?:x(cpu|[0-9]{1,2}))?|cpu)", words)
        if match is None or match[1] == "0" or match[2] == "0":
            _refuse(spec, position, f"expected how many, found {words!r}", COUNTS_EXAMPLE)
        count, each = int(match[1] or 1), match[2] or ("1" if match[1] else CPU)
        if role is not None and role != "gen" and each not in (CPU, "1"):
            _refuse(spec, position, "a trainer has one GPU, and several split the model", COUNTS_EXAMPLE)
        for _ in range(count):
            width = 0 if each == CPU else int(each)
            waiting.append(TOGETHER.join(str(first + k) for k in range(width)) or CPU)
            first += width
        if role is not None:
            placed[role] += waiting
            waiting = []
    if waiting:
        _refuse(spec, len(spec), "expected :gen or :train", COUNTS_EXAMPLE)
    for role, given in placed.items():
        kinds = {CPU if device == CPU else device.count(TOGETHER) for device in given}
        if len(kinds) != 1:
            problem = f"expected {role} of one kind" if given else f"no count has the role {role}"
            _refuse(spec, len(spec), problem, COUNTS_EXAMPLE)
    return Placement(tuple(placed["gen"]), tuple(placed["train"]))


def parse_wanted(spec: str) -> int:
    """How many generators `20:gen` asks for. Raises ValueError with an example."""
    match = re.fullmatch(r"([1-9][0-9]{0,3}):gen", spec.strip())
    if match is None:
        raise ValueError(f"expected how many generators, such as 20:gen, found {spec!r}; trainers stay as they are")
    return int(match[1])


def _misplaced(device: str, role: str, others: list[str]) -> str:
    """Why a device cannot have a role beside others that have it; empty where it can."""
    gpus = device.split(TOGETHER)
    taken = {gpu for other in others for gpu in other.split(TOGETHER)}
    if role == "train" and len(gpus) > 1:
        return f"trainers split the model by themselves; write {','.join(gpus)}"
    if role == "train" and device != CPU and device in taken:
        return f"GPU {device} has two trainers, which one does better"
    if role == "gen" and others and len(gpus) != len(others[0].split(TOGETHER)):
        return f"expected as many GPUs as the generator on {others[0]} has, found {device}"
    if len(gpus) > 1 and (twice := taken.intersection(gpus)):
        return f"GPU {min(twice)} is part of two generators"
    return ""


def _items(spec: str) -> Iterator[tuple[int, str, str | None]]:
    """What stands between commas, as position, devices and role; no role where the list goes on."""
    position = 0
    for item in spec.split(","):
        devices, colon, role = item.partition(":")
        if colon and role.strip() not in ROLES:
            _refuse(spec, position + len(devices) + 1, f"expected gen or train, found {role.strip()!r}")
        yield position + len(devices) - len(devices.lstrip()), devices.strip(), role.strip() if colon else None
        position += len(item) + 1


def _expand(spec: str, position: int, devices: str) -> list[str]:
    """`cpu`, a number, a range, or numbers that go together."""
    if devices == CPU:
        return [CPU]
    if TOGETHER in devices:
        return [_together(spec, position, devices)]
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", devices)
    if match is None:
        _refuse(spec, position, f"expected cpu, a GPU's number or a range, found {devices!r}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        _refuse(spec, position, f"the range {devices} goes backwards")
    if last > LARGEST_GPU:
        _refuse(spec, position, f"no machine has a GPU {last}")
    return [str(number) for number in range(first, last + 1)]


def _together(spec: str, position: int, devices: str) -> str:
    gpus = [gpu.strip() for gpu in devices.split(TOGETHER)]
    if wrong := [gpu for gpu in gpus if not re.fullmatch("[0-9]{1,9}", gpu)]:
        _refuse(spec, position, f"expected a GPU's number on each side of +, found {wrong[0]!r}")
    numbers = [_expand(spec, position, gpu)[0] for gpu in gpus]
    if len(set(numbers)) < len(numbers):
        _refuse(spec, position, f"a GPU stands twice in {devices}")
    return TOGETHER.join(numbers)


def _refuse(spec: str, position: int, problem: str, example: str = EXAMPLE) -> NoReturn:
    raise ValueError(f"--gpus {spec!r}, character {position + 1}: {problem}; for example {example}")


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """This machine's GPUs, as CUDA_VISIBLE_DEVICES names them. Where it is set, GPU 0 is the first it names."""
    if (chosen := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() and not name.strip().startswith("-"))
    return tuple(line.strip() for line in ask_nvidia_smi("index"))


def ask_nvidia_smi(query: str) -> list[str]:
    """A line for each GPU of this machine, numbers without units; none where nobody can be asked."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.splitlines()


def bind(placement: Placement, visible: tuple[str, ...]) -> Placement:
    """The placement with each GPU under the name it has on this machine. Raises ValueError where one is missing."""
    if placement.gpus and not visible:
        raise ValueError(
            f"this machine has no GPUs, and {len(placement.gpus)} are asked for; run on the CPU instead: "
            "tsd launch --gpus cpu:gen,cpu:train (--dry-run prints the plan without them)"
        )
    for gpu in placement.gpus:
        if int(gpu) >= len(visible):
            raise ValueError(
                f"--gpus asks for GPU {gpu}, and this machine shows {len(visible)}: 0-{len(visible) - 1}; "
                "--dry-run prints the plan all the same"
            )
    names = {CPU: CPU} | {str(number): name for number, name in enumerate(visible)}
    gen = (TOGETHER.join(names[gpu] for gpu in device.split(TOGETHER)) for device in placement.gen)
    return Placement(tuple(gen), tuple(names[device] for device in placement.train))
