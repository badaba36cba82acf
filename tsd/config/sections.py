"""Every setting, its default and its documentation: a field's docstring. [method], [loss] and [transport] are in files
of their own.

Unknown keys and values out of range are refused with their path. Environment variables are read in `tsd.run.launch`.
"""

import math
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from tsd.config.devices import Placement, parse_counts, parse_gpus
from tsd.config.losses import CispoConfig, LossConfig
from tsd.config.methods import IndexConfig, MethodConfig
from tsd.config.numbers import Count, NotNegative, Positive, PositiveShare, Share, Whole
from tsd.config.transport import TransportConfig


class TaskConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[task]: what is learned."""

    name: str = "countdown"
    """The task: `countdown`, `words`, `math`, `reasoning-gym`, a name that a package registers, or your own
    FILE.py:CLASS."""
    path: str = ""
    """words, math: the problems. A JSONL file, `{"question":"...","answer":"72"}` a line; a Parquet file; a directory
    that `datasets` saved; or `hf:NAME` or `hf:NAME:CONFIG`, a data set of the Hugging Face Hub. All but JSONL need the
    extra `datasets`."""
    columns: dict[Literal["question", "answer"], str] = field(default_factory=dict)
    """words, math: which columns hold question and answer, where they have other names: `{question=problem}`."""
    dataset: str = ""
    """reasoning-gym: which of its data sets."""
    options: dict[str, bool | int | float | str | list[bool | int | float | str]] = field(default_factory=dict)
    """reasoning-gym: the data set's own settings, such as `{max_terms=2}`; and for tasks of others, as they like."""
    num_numbers: tuple[Annotated[int, Meta(ge=2, le=6)], ...] = (4,)
    """Countdown: how many numbers a generated problem has; drawn evenly from these."""
    rare: bool = False
    """Countdown: targets that few ways lead to, distributed as the published ones are, instead of random games'."""
    style: Literal["chat", "compact", "digits"] = "compact"
    """How the prompt is worded: `chat` with an instruction, `compact` without; `digits` leaves out what the tiny model
    cannot read, which is all but digits and signs. Countdown's compact form is the tiny model's own."""
    grade_timeout_s: Positive = 10.0
    """Tasks and rewards of others: longest that one prompt, grade or reward may take; what takes longer ends the
    run."""
    num_train: Count = 20_000
    """Training problems; generators go through them in a seeded order, again and again."""


class RewardConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[reward]: what a response is worth in training. What solves a problem, and evaluation, stay the task's to say."""

    weights: dict[str, float] = field(default_factory=lambda: {"task": 1.0})
    """Rewards by name, each in [-1, 1]: their weighted sum, divided by the sum of the weights' absolute values.

    `task` is the task's own, which may pay for near misses; `exact` is 1 for a solution, else -1; `format` is 1 for an
    answer that obeys the rules, else -1; `length` is minus the tokens as a share of search.max_path_tokens; `model` is
    what reward.model says; others come from packages, see `tsd.types.Reward`. What is not named does not count, `task`
    included; a weight of 0 measures without counting."""
    model: str = ""
    """Directory or name of a reward model, any sequence classifier of Hugging Face; it counts by `weights.model`."""

    def __post_init__(self) -> None:
        if ("model" in self.weights) != bool(self.model):
            raise ValueError("reward.model and reward.weights.model: expected both or neither")
        if not 0 < sum(map(abs, self.weights.values())) < math.inf:
            raise ValueError(f"weights: expected finite numbers, one of them not 0, found {self.weights}")


HeadDtype = Literal["float32", "model"]


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[model]: where training starts."""

    path: str = "builtin:countdown-tiny"
    """A Hugging Face directory; a model's name on its hub, `OWNER/NAME` or `OWNER/NAME@REVISION`; or `builtin:NAME` for
    one shipped with tsd."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the engines, and of the trainer's forward pass; its weights and losses are float32 always."""
    head_dtype: HeadDtype = "float32"
    """Precision of the output layer's product, in engines and trainer: `model` rounds logits to `dtype`, and the two
    then differ by more."""


class EngineConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[engine]: what generates."""

    kind: Literal["torch", "vllm", "mock", "null"] = "torch"
    """`torch` for CPU and small models, `vllm` for GPUs, `mock` for tests, `null` to measure search alone."""
    temperature: Positive = 1.0
    """Sampling temperature of search. Behaviour logprobs and the trainer's ratio are taken at it."""
    max_sequences: Count = 256
    """Most sequences decoded at once."""
    max_model_tokens: Count = 256
    """Longest prompt plus response."""
    cache_mb: Count = 512
    """On a CPU, and on a GPU that several processes share: memory for keys and values of states already seen (vllm: of
    running sequences too)."""
    num_threads: Count = 1
    """On a CPU: threads of each generator's engine."""
    memory_share: Share = 0.9
    """vllm: share of a GPU's memory it may take, where the GPU is its own."""
    eager: bool = False
    """vllm: run the model as it is written, without CUDA graphs and compilation: a quick start, slower steps."""
    attention: str = ""
    """vllm: the attention backend, such as `FLASH_ATTN`; its own choice where empty."""
    prefill_tokens: Whole = 0
    """vllm: most tokens of one engine step, prompts among them; its own choice, 2,048 as a rule, where 0."""
    mock_solve_rate: Share = 0.3
    """mock: the chance that a step follows a path to the target."""
    mock_value_noise: NotNegative = 0.0
    """mock: standard deviation of the error in its values."""
    mock_latency_s: NotNegative = 0.0
    """mock: how long each call takes."""

    @property
    def needs_model(self) -> bool:
        """Whether it generates from weights."""
        return self.kind in ("torch", "vllm")


class SearchConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[search]: what is searched, whatever the method: how many problems at once, and how long a path may be."""

    trees: Count = 16
    """Problems in flight in each generator, a tree or a set of samples of each."""
    max_depth: Count = 12
    """Deepest node, in steps."""
    max_step_tokens: Count = 64
    """Longest step."""
    max_path_tokens: Count = 200
    """Longest path without its prompt; longer ones end as truncated, with the worst reward."""
    memory: str = ""
    """Search by index: the directory of a memory of steps, whose outcomes count in what new steps like them are worth;
    none where empty. Each generator has one of its own in it. Needs the extra `chroma`."""


class TrainConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[train]: the optimizer's side."""

    num_updates: Count = 400
    """Optimizer updates in all, before any resume and after."""
    time_limit_s: NotNegative = 1080.0
    """Stop training after this long, counted over resumes; 0 for no limit."""
    token_limit: Whole = 0
    """Stop training when so many tokens were generated for it, counted over resumes; 0 for no limit."""
    batch_size: Count = 32
    """Trajectories in one update, over all trainers."""
    micro_batch_tokens: Count = 1024
    """Most tokens, padding included, in one forward pass of one trainer. Few suit a CPU's cache, many a GPU."""
    row_tokens: Count = 192
    """What trajectories share goes through the model once, in rows of at most this many tokens, or of the longest path:
    attention costs the square of a row."""
    num_inner_steps: Count = 1
    """Optimizer steps on one batch."""
    learning_rate: Positive = 5e-5
    """AdamW's, at full height: see warmup_updates and decay."""
    value_rate: Positive = 30.0
    """The value head's learning rate, as a multiple of the model's: it has to keep up with a policy that moves."""
    warmup_updates: Whole = 0
    """Updates over which it rises to that."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """How it falls after that, to 0 at num_updates."""
    weight_decay: NotNegative = 0.0
    """AdamW's, a step's share of each weight."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm, those of the value head on their own."""
    publish_every: Count = 1
    """Updates between two published versions."""
    checkpoint_every: Count = 50
    """Updates between two checkpoints; one is always written at the end, and on a stop."""
    checkpoints_kept: Count = 2
    """How many of the newest are kept."""
    keep_best: bool = False
    """Keep the checkpoint that did best in validation too (evaluate.every): it is then what a run comes to, what is
    evaluated after it, and what `tsd export` gives."""
    patience: Whole = 0
    """Stop training after so many validations in a row (evaluate.every) without a new best; 0 for no such limit."""
    max_staleness: Whole = 16
    """A trajectory whose oldest token is more versions old than this is refused, and counted."""
    lora_rank: Whole = 0
    """Learn low-rank adapters of this rank, which generators merge into the model; 0 learns all weights. Needs the
    extra `lora`."""
    activation_checkpointing: bool = False
    """Compute each layer's activations again for its gradients instead of keeping them: less memory, a third slower."""
    num_threads: Count = 1
    """CPU threads of each trainer."""


class EvaluateConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[evaluate]: mean@k before and after, on held-out problems, and during training, on validation problems."""

    num_problems: Count = 820
    """Held-out problems, of the sizes in task.num_numbers; 820 is all of the published set's size."""
    k: Count = 16
    """Samples of each problem."""
    temperature: NotNegative = 0.8
    """Sampling temperature; 0.8 is that of the published search, 0 always takes the likeliest token."""
    top_p: PositiveShare = 1.0
    """Samples only the likeliest tokens whose probability reaches this together; 1 samples all. Never in search."""
    every: Whole = 0
    """Updates between two evaluations beside training, each of a checkpoint that is written for it; 0 for none."""
    validation_problems: Count = 100
    """Validation problems for those."""


class ObserveConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[observe]: what a run says of itself beside metrics.jsonl."""

    trajectories: bool = False
    """Write which trajectories each update used, into the run's used.jsonl: to audit a run, as `tsd soak` does."""
    tensorboard: bool = False
    """Write the numbers of updates and evaluations for TensorBoard too, into the run's tensorboard/."""
    wandb: str = ""
    """Project of Weights & Biases that the numbers go to too; none where empty. WANDB_MODE=offline keeps them here."""
    trackio: str = ""
    """Project of trackio that the numbers go to too, on this machine; none where empty."""
    prometheus_port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    """Port of 127.0.0.1 at which Prometheus finds the last numbers while the run is up; 0 for none."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run's configuration, all of it."""

    seed: Whole = 0
    """Seeds every random choice of the run."""
    task: TaskConfig = TaskConfig()
    reward: RewardConfig = RewardConfig()
    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    search: SearchConfig = SearchConfig()
    method: MethodConfig = IndexConfig()
    loss: LossConfig = CispoConfig()
    train: TrainConfig = TrainConfig()
    transport: TransportConfig = TransportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    observe: ObserveConfig = ObserveConfig()
    gpus: str = "cpu:gen,cpu:gen,cpu:train"
    """Default of `tsd launch --gpus`."""
    cluster: str = ""
    """Default of `tsd launch --cluster`: the Ray cluster that processes run on; this machine alone where empty. `auto`
    for the one this machine is part of, the address of its head, such as `10.0.0.5:6379`, or `local:3` for three nodes
    on this machine."""

    @property
    def placement(self) -> Placement:
        """Who runs where; on a cluster, how many. Raises ValueError for what cannot be read."""
        return parse_counts(self.gpus) if self.cluster else parse_gpus(self.gpus)

    def __post_init__(self) -> None:
        if self.search.memory and not isinstance(self.method, IndexConfig):
            raise ValueError("search.memory is for search by index: set method.kind=index, or leave it empty")
        if (self.train.keep_best or self.train.patience) and not self.evaluate.every:
            raise ValueError("train.keep_best and train.patience need validation: set evaluate.every, such as to 50")
