"""What a launch would start: which process on which device, and about how much memory it needs there.

Pure data and arithmetic over the configuration and a model's config.json. Starts nothing, asks no GPU, loads no model.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec

from tsd.config import Config, EvaluateConfig, TransportConfig, kind
from tsd.config.devices import CPU, TOGETHER, Placement, parse_gpus
from tsd.model.files import model_path

LOGITS_AT_ONCE, LOGIT_COPIES = 512, 5
"""The first as `tsd.model.policy` has it, which imports torch; how many arrays of that size live at once."""
GPUS_OF_ONE = (1, 2, 4, 8)
"""Over how many a generator is tried where a placement does not fit."""
COLUMNS = {
    "weights": 10,
    "gradients": 11,
    "optimizer": 11,
    "copies": 10,
    "activations": 13,
    "KV cache": 10,
    "total": 10,
}
"""What a plan says of each process's memory, and the width of each column."""


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a Hugging Face config.json. Norms and biases are too small to matter."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    vocab_size: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    tie_word_embeddings: bool = False

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def layer_parameters(self) -> int:
        """What one layer of a Llama-like model has."""
        attention = 2 * self.hidden_size * self.head_size * (self.num_attention_heads + self.kv_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def output_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def embedding_parameters(self) -> int:
        """The embedding, and the output layer where it is another."""
        return self.output_parameters * (1 if self.tie_word_embeddings else 2)

    @property
    def num_parameters(self) -> int:
        return self.num_hidden_layers * self.layer_parameters + self.embedding_parameters

    @property
    def cached_per_token(self) -> int:
        """Keys and values kept of one token, over all layers."""
        return 2 * self.num_hidden_layers * self.kv_heads * self.head_size


def _qwen(hidden: int, layers: int, intermediate: int, heads: int, kv_heads: int, *, tied: bool) -> ModelShape:
    return ModelShape(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=intermediate,
        vocab_size=151_936 if tied else 152_064,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
    )


NAMED = {
    0.5e9: _qwen(896, 24, 4864, 14, 2, tied=True),
    1.5e9: _qwen(1536, 28, 8960, 12, 2, tied=True),
    3e9: _qwen(2048, 36, 11_008, 16, 2, tied=True),
    7e9: _qwen(3584, 28, 18_944, 28, 4, tied=False),
    14e9: _qwen(5120, 48, 13_824, 40, 8, tied=False),
    32e9: _qwen(5120, 64, 27_648, 40, 8, tied=False),
}
"""The Qwen2.5 family by the size in its names, for a model of which nothing but the name is here."""
NO_MODEL = ModelShape(
    hidden_size=0, num_hidden_layers=0, intermediate_size=0, vocab_size=0, num_attention_heads=1, head_dim=0
)


@dataclass(frozen=True)
class ModelSize:
    """What memory depends on."""

    num_parameters: float
    shape: ModelShape
    source: str
    """Where the numbers come from."""
    is_exact: bool = True


@dataclass(frozen=True)
class Memory:
    """Bytes on one device; on each of them, for a process over several."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    copies: float = 0.0
    """A trainer's: the reference of the KL term, and a published version to hold against the engine."""
    activations: float = 0.0
    """Everything that lives during a pass alone, logits and gathered weights among it."""
    cache: float = 0.0

    @property
    def columns(self) -> tuple[float, ...]:
        """In the order of COLUMNS."""
        parts = (self.weights, self.gradients, self.optimizer, self.copies, self.activations, self.cache)
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

    @property
    def needs(self) -> dict[str, float]:
        """Bytes that the processes of each device need together."""
        found: dict[str, float] = {}
        for planned in self.processes:
            for device in planned.device.split(TOGETHER):
                found[device] = found.get(device, 0.0) + planned.memory.columns[-1]
        return found


def make_plan(config: Config, placement: Placement, run_dir: Path) -> Plan:
    """Raises ValueError when nothing tells the model's size, and for a generator that the engine cannot split so."""
    size = model_size(config)
    check_generators(config, placement, size)
    evaluate, validates = config.evaluate, config.evaluate.every > 0
    memory = partial(generator_memory, config, size, num_gpus=placement.gpus_each)
    generators = [
        Planned(name, device, memory(is_shared=validates or placement.is_shared(device)))
        for name, device in _generating(placement, validates)
    ]
    train, world = config.train, len(placement.train)
    each = trainer_memory(config, size, world)
    trainers = [Planned(f"trainer-{i}", device, each) for i, device in _each(placement.train)]
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
    plan = Plan(facts, (*generators, *trainers), _notes(config, size, placement))
    return replace(plan, notes=(*plan.notes, *_shared(placement, plan)))


def render_plan(plan: Plan) -> str:
    """As text, 97 columns wide where paths are short."""
    lines = [f"{name:<14} {text}" for name, text in plan.facts]
    lines += [
        "",
        f"{'process':<13}{'device':<9}" + "".join(f"{column:>{width}}" for column, width in COLUMNS.items()),
    ]
    for planned in plan.processes:
        row = "".join(
            f"{_size(number):>{width}}" for number, width in zip(planned.memory.columns, COLUMNS.values(), strict=True)
        )
        lines.append(f"{planned.name:<13}{_device(planned.device):<9}{row}")
    return "\n".join([*lines, "", *plan.notes])


def model_size(config: Config) -> ModelSize:
    """From config.json where the model is on this machine, else from a size in its name, such as `1.5B`."""
    if not config.engine.needs_model:
        return ModelSize(0, NO_MODEL, f"none: the {config.engine.kind} engine has no model")
    try:
        directory = model_path(config.model.path)
    except ValueError:
        return _size_from_name(config.model.path)
    try:
        shape = msgspec.json.decode((directory / "config.json").read_bytes(), type=ModelShape)
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"cannot read the model's size from {directory / 'config.json'}: {error}") from None
    return ModelSize(shape.num_parameters, shape, "from its config.json")


def _size_from_name(path: str) -> ModelSize:
    """As the Qwen2.5 model of the nearest size has it, in proportion."""
    found = re.findall(r"(?<![0-9.])([0-9]{1,4}(?:\.[0-9]{1,3})?)([bBmM])(?![A-Za-z0-9])", path)
    if not found:
        raise ValueError(
            f"model.path: no model in {path!r} on this machine, and no size such as 1.5B in the name to plan with"
        )
    number, unit = found[-1]
    wanted = float(number) * (1e9 if unit in "bB" else 1e6)
    named, shape = min(NAMED.items(), key=lambda one: abs(one[0] - wanted))
    source = f"an estimate from {number}{unit} in its name: not on this machine"
    return ModelSize(shape.num_parameters * wanted / named, shape, source, is_exact=False)


def generator_memory(config: Config, size: ModelSize, *, is_shared: bool = False, num_gpus: int = 1) -> Memory:
    """Weights, and keys and values of every sequence in flight at full length, split over its GPUs; engine.cache_mb of
    them in the torch engine, and on a GPU that is shared."""
    engine, width = config.engine, _width(config)
    full = engine.max_sequences * engine.max_model_tokens * size.shape.cached_per_token * width / num_gpus
    return Memory(
        weights=size.num_parameters * width / num_gpus,
        activations=engine.max_sequences * size.shape.vocab_size * 4 * LOGIT_COPIES,
        cache=engine.cache_mb * 1e6 if engine.kind == "torch" or is_shared else full,
    )


def trainer_memory(config: Config, size: ModelSize, num_trainers: int = 1) -> Memory:
    """Trainers split among them the model in float32, its gradients, AdamW's two moments of each parameter, and
    copies. Adapters are too small to matter."""
    own = size.num_parameters * 4 / num_trainers
    learned = 0.0 if config.train.lora_rank else own
    copies = own * (2 if config.loss.c_kl else 1)
    return Memory(own, learned, 2 * learned, copies, _activations(config, size, num_trainers))


def _activations(config: Config, size: ModelSize, num_trainers: int) -> float:
    """What a trainer's forward and backward pass need at most, more than was seen of it on a GPU (docs/gpus.md).

    A layer keeps eight float32 numbers for each of a token's hidden size (residuals, norms), and in the precision of
    its products six of that size (attention) and four of the intermediate size, and its weights, where that is lower.
    """
    shape, tokens, width = size.shape, config.train.micro_batch_tokens, _width(config)
    inputs = tokens * shape.hidden_size * 4
    layer = 8 * inputs + tokens * width * (6 * shape.hidden_size + 4 * shape.intermediate_size)
    layer += shape.layer_parameters * width * (width < 4)
    kept = layer * shape.num_hidden_layers
    if config.train.activation_checkpointing:  # the inputs of all layers, and one layer anew
        kept = layer + inputs * shape.num_hidden_layers
    output = shape.output_parameters * (4 if width == 4 else 12)  # rounded, in float32, and the gradients of both
    logits = min(LOGITS_AT_ONCE, tokens) * shape.vocab_size * 4 * LOGIT_COPIES
    # FSDP2 gathers a layer in the pass's precision, embeddings in float32; gradients are whole before they are split.
    gathered = (2 * width * shape.layer_parameters + 8 * shape.embedding_parameters) * (num_trainers > 1)
    return kept + output + logits + gathered


def check_generators(config: Config, placement: Placement, size: ModelSize) -> None:
    """Raises ValueError where the engine cannot split this model over the GPUs of one generator."""
    num_gpus, heads, kind = placement.gpus_each, size.shape.kv_heads, config.engine.kind
    if num_gpus > 1 and kind != "vllm":
        raise ValueError(
            f"--gpus {placement.gen[0]}: engine.kind vllm alone takes several GPUs, found {kind}; name one"
        )
    if size.is_exact and heads % num_gpus:
        fits = " or ".join(str(number) for number in GPUS_OF_ONE if heads % number == 0)
        raise ValueError(
            f"--gpus {placement.gen[0]}: expected {fits} GPUs for a generator of a model with {heads} key/value heads"
        )


def fitting(config: Config, num_gpus: int, room: float) -> str:
    """A placement on GPUs of that much memory, with as many generators as there can be; empty where nothing fits."""
    for spec in _specs(num_gpus):
        with suppress(ValueError):
            if all(need <= room for need in make_plan(config, parse_gpus(spec), Path()).needs.values()):
                return spec
    return ""


def _specs(num_gpus: int) -> Iterator[str]:
    """From few trainers to many, and generators from narrow to wide."""
    if num_gpus == 1:
        yield "0:gen,0:train"
    for first_trainer in range(num_gpus - 1, 0, -1):
        for width in GPUS_OF_ONE:
            starts = range(0, first_trainer - width + 1, width)
            groups = [TOGETHER.join(str(start + k) for k in range(width)) for start in starts]
            trainers = f"{first_trainer}-{num_gpus - 1}:train"
            if groups:
                yield f"{','.join(groups)}:gen,{trainers}"


def _notes(config: Config, size: ModelSize, placement: Placement) -> tuple[str, ...]:
    notes = ["Memory is an estimate for each process; the evaluation needs what a generator needs."]
    if placement.gpus_each > 1:
        notes.append("A generator's row says what it needs on each of its GPUs.")
    if placement.train[0] != CPU and size.num_parameters:
        width, world = _width(config), len(placement.train)
        saved, taken = size.num_parameters * (8 + 2 * width + 4 * (world > 1)), size.num_parameters * 2 * width
        notes.append(
            f"Beside this, in the host's memory: {_size(saved)} in trainer-0 when it writes a checkpoint,\n"
            f"{_size(taken)} in each generator when it takes new weights."
        )
    owns_gpu = any(device != CPU and not placement.is_shared(device) for device in placement.gen)
    if config.engine.kind == "vllm" and owns_gpu:
        notes.append(f"vLLM takes {config.engine.memory_share:.0%} of its device's memory, and caches in what is left.")
    if CPU in (*placement.gen, *placement.train):
        notes.append(f"CPU threads: {config.engine.num_threads} a generator, {config.train.num_threads} a trainer.")
    return tuple(notes)


def _shared(placement: Placement, plan: Plan) -> Iterator[str]:
    """What processes on one GPU need together, and what the fullest GPU needs."""
    for device in dict.fromkeys(placement.gpus):
        if placement.is_shared(device):
            names = " and ".join(one.name for one in plan.processes if device in one.device.split(TOGETHER))
            yield f"GPU {device} is shared by {names}: {_size(plan.needs[device])} together."
    if placement.gpus:
        yield f"The fullest GPU needs {_size(max(plan.needs[gpu] for gpu in placement.gpus))}."


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
