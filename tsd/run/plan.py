"""What a launch would start: which process on which device, and about how much memory it needs there.

Pure data and arithmetic over the configuration and a model's config.json. Starts nothing, asks no GPU, loads no model.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tsd.config import Config, EvaluateConfig, TransportConfig, kind
from tsd.config.devices import CPU, Placement
from tsd.model.files import model_path

TYPICAL = ((0.5e9, 24 * 2 * 64), (1.5e9, 28 * 2 * 128), (3e9, 36 * 2 * 128), (7e9, 28 * 4 * 128), (32e9, 64 * 8 * 128))
"""Parameters, and layers x key-value heads x head size: the Qwen2.5 family, for a model known by its name alone."""
LOGITS_AT_ONCE = 512
"""As `tsd.model.policy` has it, which imports torch."""
TYPICAL_VOCAB = 151_936
COLUMNS = ("weights", "gradients", "optimizer", "reference", "KV cache", "total")


@dataclass(frozen=True)
class ModelSize:
    """What memory depends on."""

    num_parameters: float
    cached_per_token: float
    """Keys and values kept of one token, over all layers."""
    vocab_size: int
    source: str
    """Where the numbers come from."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    reference: float = 0.0
    cache: float = 0.0

    @property
    def columns(self) -> tuple[float, ...]:
        """In the order of COLUMNS."""
        parts = (self.weights, self.gradients, self.optimizer, self.reference, self.cache)
        return (*parts, sum(parts))


@dataclass(frozen=True)
class Planned:
    """One process of the training phase."""

    name: str
    device: str
    memory: Memory


@dataclass(frozen=True)
class Plan:
    """Everything `--dry-run` prints."""

    facts: tuple[tuple[str, str], ...]
    processes: tuple[Planned, ...]
    notes: tuple[str, ...]


class _ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a Hugging Face config.json."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    vocab_size: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    tie_word_embeddings: bool = False


def make_plan(config: Config, placement: Placement, run_dir: Path) -> Plan:
    """Raises ValueError when nothing tells the model's size."""
    size = model_size(config)
    evaluate, validates = config.evaluate, config.evaluate.every > 0
    generators = [
        Planned(name, device, generator_memory(config, size, is_shared=validates or placement.is_shared(device)))
        for name, device in _generating(placement, validates)
    ]
    trainers = [Planned(f"trainer-{i}", device, trainer_memory(config, size)) for i, device in _each(placement.train)]
    train, world = config.train, len(trainers)
    length = f"{train.num_updates:,} updates" + (f" or {train.time_limit_s:,.0f} s" if train.time_limit_s else "")
    facts = (
        ("run directory", str(run_dir)),
        ("model", f"{config.model.path}, {config.model.dtype}: {_count(size.num_parameters)} parameters"),
        ("model's size", size.source),
        ("phases", f"evaluate on {_device(placement.gen[0])}; {length}; evaluate again"),
        ("evaluation", f"{evaluate.num_problems} held-out problems x {evaluate.k} samples{_validation(evaluate)}"),
        ("batch", f"{train.batch_size} trajectories an update over {world} trainer{'s' * (world > 1)}"),
        ("weights", f"a new version every {train.publish_every} updates"),
        ("search", f"{kind(config.method)}, {config.search.trees} problems at once in each generator"),
        ("sockets", _sockets(config.transport)),
    )
    processes = (*generators, *trainers)
    return Plan(facts, processes, (*_notes(config, size, placement), *_shared(placement, processes)))


def render_plan(plan: Plan) -> str:
    """As text, 80 columns wide where paths are short."""
    lines = [f"{name:<14} {text}" for name, text in plan.facts]
    lines += [
        "",
        f"{'process':<13}{'device':<9}" + "".join(f"{column:>10}" for column in COLUMNS[:-1]) + f"{'total':>8}",
    ]
    for planned in plan.processes:
        *parts, total = (_size(number) for number in planned.memory.columns)
        row = "".join(f"{part:>10}" for part in parts)
        lines.append(f"{planned.name:<13}{_device(planned.device):<9}{row}{total:>8}")
    return "\n".join([*lines, "", *plan.notes])


def model_size(config: Config) -> ModelSize:
    """From config.json where the model is on this machine, else from a size in its name, such as `1.5B`."""
    if not config.engine.needs_model:
        return ModelSize(0, 0, 0, f"none: the {config.engine.kind} engine has no model")
    try:
        directory = model_path(config.model.path)
    except ValueError:
        return _size_from_name(config.model.path)
    try:
        model = msgspec.json.decode((directory / "config.json").read_bytes(), type=_ModelFile)
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"cannot read the model's size from {directory / 'config.json'}: {error}") from None
    return _size_from_shapes(model)


def _size_from_shapes(model: _ModelFile) -> ModelSize:
    """Counts the matrices of a Llama-like model; norms and biases are too small to matter."""
    heads, hidden = model.num_attention_heads, model.hidden_size
    head, kv_heads = model.head_dim or hidden // heads, model.num_key_value_heads or heads
    layer = 2 * hidden * head * (heads + kv_heads) + 3 * hidden * model.intermediate_size
    embeddings = model.vocab_size * hidden * (1 if model.tie_word_embeddings else 2)
    parameters = model.num_hidden_layers * layer + embeddings
    return ModelSize(
        parameters, 2 * model.num_hidden_layers * kv_heads * head, model.vocab_size, "from its config.json"
    )


def _size_from_name(path: str) -> ModelSize:
    found = re.findall(r"(?<![0-9.])([0-9]{1,4}(?:\.[0-9]{1,3})?)([bBmM])(?![A-Za-z0-9])", path)
    if not found:
        raise ValueError(
            f"model.path: no model in {path!r} on this machine, and no size such as 1.5B in the name to plan with"
        )
    number, unit = found[-1]
    parameters = float(number) * (1e9 if unit in "bB" else 1e6)
    cached = 2 * min(TYPICAL, key=lambda typical: abs(typical[0] - parameters))[1]
    return ModelSize(
        parameters, cached, TYPICAL_VOCAB, f"an estimate from {number}{unit} in its name: not on this machine"
    )


def generator_memory(config: Config, size: ModelSize, *, is_shared: bool = False) -> Memory:
    """Weights, and keys and values of every sequence in flight at full length; engine.cache_mb of them in the torch
    engine, and on a GPU that is shared."""
    engine, width = config.engine, _width(config)
    full = engine.max_sequences * engine.max_model_tokens * size.cached_per_token * width
    cache = engine.cache_mb * 1e6 if engine.kind == "torch" or is_shared else full
    return Memory(weights=size.num_parameters * width, cache=cache)


def trainer_memory(config: Config, size: ModelSize) -> Memory:
    """Every trainer holds the whole model in float32, and AdamW two moments of each parameter."""
    weights = size.num_parameters * 4
    return Memory(weights, weights, 2 * weights, weights if config.loss.c_kl else 0.0)


def _notes(config: Config, size: ModelSize, placement: Placement) -> tuple[str, ...]:
    notes = ["Memory is an estimate for each process; the evaluation needs what a generator needs."]
    if size.vocab_size:
        notes.append(
            f"A trainer's activations come on top: of {config.train.micro_batch_tokens:,} tokens "
            f"(train.micro_batch_tokens),\nand the logits of {LOGITS_AT_ONCE} of them at a time, "
            f"{_size(LOGITS_AT_ONCE * size.vocab_size * 4)} in float32, a few times over."
        )
    owns_gpu = any(device != CPU and not placement.is_shared(device) for device in placement.gen)
    if config.engine.kind == "vllm" and owns_gpu:
        notes.append(f"vLLM takes {config.engine.memory_share:.0%} of its device's memory, and caches in what is left.")
    if CPU in (*placement.gen, *placement.train):
        notes.append(f"CPU threads: {config.engine.num_threads} a generator, {config.train.num_threads} a trainer.")
    return tuple(notes)


def _shared(placement: Placement, processes: tuple[Planned, ...]) -> Iterator[str]:
    """What processes on one GPU need together."""
    for device in dict.fromkeys(placement.gpus):
        if placement.is_shared(device):
            own = [planned for planned in processes if planned.device == device]
            total = sum(planned.memory.columns[-1] for planned in own)
            names = " and ".join(planned.name for planned in own)
            yield f"GPU {device} is shared by {names}: {_size(total)} together, activations not counted."


def _sockets(transport: TransportConfig) -> str:
    where = "ipc, in a private folder under /tmp"
    if transport.scheme == "tcp":
        where = f"tcp, three ports of {transport.host} from {transport.port or 'any free one'} on"
    return f"{where}: trajectories, weights, snapshots; {'with' if transport.keys else 'no'} keys"


def _validation(evaluate: EvaluateConfig) -> str:
    return f"; {evaluate.validation_problems} others every {evaluate.every} updates" if evaluate.every else ""


def _generating(placement: Placement, validates: bool) -> Iterator[tuple[str, str]]:
    """Names and devices: the generators, and what evaluates beside the first of them."""
    yield from ((f"generator-{index}", device) for index, device in _each(placement.gen))
    if validates:
        yield "validation", placement.gen[0]


def _each(devices: tuple[str, ...]) -> list[tuple[int, str]]:
    return list(enumerate(devices))


def _width(config: Config) -> int:
    return 4 if config.model.dtype == "float32" else 2


def _device(device: str) -> str:
    return "CPU" if device == CPU else f"GPU {device}"


def _count(number: float) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"


def _size(number: float) -> str:
    if not number:
        return "-"
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"
