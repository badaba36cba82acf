"""Every setting, its default and its documentation: a field's docstring. Those of [transport] are in `transport`.

Unknown keys and values out of range are refused with their path. Environment variables are read in `tsd.launch` alone.
"""

import math
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from tsd.config.numbers import Count, NotNegative, Positive, Share, Whole
from tsd.config.transport import TransportConfig


class TaskConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[task]: what is learned."""

    name: str = "countdown"
    """The task: `countdown`, `words`, `reasoning-gym`, a name that a package registers, or your own FILE.py:CLASS."""
    path: str = ""
    """words: the JSONL file of problems, `{"question":"...","answer":"72"}` a line."""
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
    num_train: Count = 20_000
    """Training problems; generators go through them in a seeded order, again and again."""


class RewardConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[reward]: what a response is worth in training. What solves a problem, and evaluation, stay the task's to say."""

    weights: dict[str, float] = field(default_factory=lambda: {"task": 1.0})
    """Rewards by name, each in [-1, 1]: their weighted sum, divided by the sum of the weights' absolute values.

    `task` is the task's own, which may pay for near misses; `exact` is 1 for a solution, else -1; `format` is 1 for an
    answer that obeys the rules, else -1; `length` is minus the tokens as a share of search.max_path_tokens; others come
    from packages, see `tsd.protocols.Reward`. What is not named does not count, `task` included; a weight of 0
    measures without counting."""

    def __post_init__(self) -> None:
        if not 0 < sum(map(abs, self.weights.values())) < math.inf:
            raise ValueError(f"weights: expected finite numbers, one of them not 0, found {self.weights}")


HeadDtype = Literal["float32", "model"]


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[model]: where training starts."""

    path: str = "builtin:countdown-tiny"
    """A Hugging Face directory, or `builtin:NAME` for a model shipped with tsd."""
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


class SearchConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[search]: one tree."""

    kind: Literal["puct", "index"] = "puct"
    """How the next step is chosen: by `puct`, K samples of a state at once, as published; or by `index`: one new step
    from the state that promises most solutions per token, which takes a V that sees."""
    agents: Count = 16
    """Coroutines that search one tree together, at most."""
    trees: Count = 4
    """Trees in flight in each generator."""
    num_samples: Count = 4
    """K: steps sampled in one expansion."""
    simulations: Count = 64
    """Budget of a tree, over all its agents."""
    max_tokens: Whole = 0
    """Budget of a tree in generated tokens; 0 for none."""
    time_limit_s: NotNegative = 0.0
    """Budget of a tree in seconds; 0 for none."""
    max_depth: Count = 12
    """Deepest node, in steps."""
    max_step_tokens: Count = 64
    """Longest step."""
    max_path_tokens: Count = 200
    """Longest path without its prompt; longer ones end as truncated, with the worst reward."""
    c_puct: NotNegative = 1.5
    """Weight of the exploration term."""
    fpu_reduction: NotNegative = 0.2
    """First-play urgency: a child not yet visited is worth its parent's Q less this."""
    in_flight: Literal["virtual-loss", "wu-uct"] = "wu-uct"
    """How visits not yet completed count."""
    virtual_loss: NotNegative = 1.0
    """Weight of a visit in flight under `virtual-loss`."""
    prior: Literal["multiplicity", "softmax", "length-normalised"] = "multiplicity"
    """How the K samples become a prior."""
    rollout: bool = False
    """Search by whole paths: each simulation goes on to an end, one sample at a time, and its reward is what counts."""
    widen_scale: Positive = 1.0
    """Under `rollout`: a state passed N times has been sampled widen_scale * N ** widen_power times."""
    widen_power: Share = 0.5
    """1 samples whole paths alone, as without search."""
    widen: Literal["never", "spent"] = "never"
    """When a state is sampled again. `spent`: where everything below it is searched and other steps are likely."""
    prune_dead: bool = False
    """End a path where the task says that nothing legal can follow."""
    grade_decided: bool = False
    """End a path where the task says that it has failed and by how much: its answer is not written, but graded. By the
    task's own reward alone: beside reward.weights it changes nothing."""
    solutions: Whole = 1
    """End a tree when so many paths solve the problem; 0 goes on to the end of the budget."""


class HarvestConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[harvest]: what a finished tree sends to the trainer."""

    choose: Literal["visits", "reward", "value"] = "reward"
    """The path that is finished, and without `whole_tree` sent first: most visited, best reward, or best Q."""
    num_paths: Count = 2
    """Without `whole_tree`: paths sent of one tree, the chosen one and, past it, other finished ones, drawn evenly."""
    whole_tree: bool = True
    """Send the steps that search came to, as one trajectory, instead of paths."""
    min_visits: Count = 4
    """Of whole trees: only steps from states that were visited so often. What search says of others is one guess."""


Method = Literal["mcts", "cispo", "best-of-n"]


class SampleConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[sample]: the baselines, which learn from whole responses instead of trees."""

    group_size: Count = 16
    """cispo: samples of one problem, all learned from."""
    max_tokens: Whole = 0
    """cispo: end a group when so many tokens were generated, as `search.max_tokens` ends a tree; 0 for no such end."""
    solutions: Whole = 0
    """cispo: end a group when so many of its samples solve the problem, as `search.solutions` ends a tree; 0 does not."""
    best_of: Count = 64
    """best-of-n: samples of one problem, of which the best is learned from."""


class LossConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[loss]: L = c_policy * L_policy + c_value * L_value + c_kl * KL(policy || reference) - c_entropy * H(policy)
    + c_visits * L_visits."""

    kind: Literal["ppo", "cispo"] = "cispo"
    """The policy loss."""
    clip_low: Share = 0.2
    """ppo: the ratio is clipped below at 1 - clip_low."""
    clip_high: NotNegative = 0.2
    """ppo: the ratio is clipped above at 1 + clip_high."""
    cispo_max_ratio: Positive = 5.0
    """cispo: the ratio's ceiling (eps_high)."""
    ratio: Literal["token", "sequence", "one"] = "token"
    """The ratio to the behaviour logprobs: each token's own, or the mean over its trajectory. `one` is no ratio at all,
    whatever sampled the tokens: to measure what that costs."""
    ratio_mask: NotNegative = 0.0
    """Leave tokens out of the policy loss whose ratio is above this, or below its inverse; 0 leaves none out."""
    advantage: Literal["auto", "value", "group", "sibling", "tree"] = "auto"
    """A of a token: `value`, R - V(s_t); `group`, R normalised over the trajectories of one group (GRPO's); `sibling`,
    for whole trees, R of its step less the mean over the steps that follow the same one; `tree`, R of its step less
    that of the state it starts from, and less the prompt's (TreeRL's, Hou et al., 2025). `auto` takes `tree` for
    whole trees searched by whole paths, `sibling` for others, `group` for the method `cispo` and else `value`."""
    visit_power: Share = 0.5
    """tree: a step counts as often as its visits to this power; with 1, as separate samples would."""
    tree_value_share: Share = 0.0
    """R of a step: this share of the tree's Q, and for the rest the mean reward of the ends below it."""
    scale_advantages: bool = False
    """Divide the advantages of a tree's steps by their standard deviation, as those of a group are."""
    c_policy: NotNegative = 1.0
    """Weight of the policy loss."""
    c_value: NotNegative = 1.0
    """Weight of the value loss."""
    value_clip: NotNegative = 0.0
    """Keep V within this of V at sampling time, PPO's clipped value loss; 0 does not."""
    value_reaches_trunk: bool = False
    """Whether the value loss also trains the model below the value head. On the tiny model its gradient drowns the
    policy's and costs it its format; the published system has it on."""
    c_kl: NotNegative = 0.02
    """Weight of the KL term; 0 spares the reference model."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Its estimator."""
    c_entropy: NotNegative = 0.0
    """Weight of an entropy bonus."""
    c_visits: NotNegative = 0.0
    """Weight of the cross-entropy between search's visits and the policy, over steps that follow the same one: what
    AlphaZero learns from. For whole trees."""


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
    """AdamW's."""
    warmup_updates: Whole = 0
    """Updates over which it rises to that."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """How it falls after that, to 0 at num_updates."""
    weight_decay: NotNegative = 0.0
    """AdamW's."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm, those of the value head on their own."""
    publish_every: Count = 1
    """Updates between two published versions."""
    checkpoint_every: Count = 50
    """Updates between two checkpoints; one is always written at the end, and on a stop."""
    checkpoints_kept: Count = 2
    """Of the newest."""
    max_staleness: Whole = 16
    """A trajectory whose oldest token is more versions old than this is refused, and counted."""
    lora_rank: Whole = 0
    """Learn low-rank adapters of this rank, and publish them merged; 0 learns all weights. Needs the extra `lora`."""
    activation_checkpointing: bool = False
    """Compute each layer's activations again for its gradients instead of keeping them: less memory, a third slower."""
    num_threads: Count = 1
    """CPU threads of each trainer."""


class EvaluateConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[evaluate]: mean@k before and after, on held-out problems."""

    num_problems: Count = 820
    """Held-out problems, of the sizes in task.num_numbers; 820 is all of the published set's size."""
    k: Count = 16
    """Samples of each problem."""
    temperature: Positive = 0.8
    """Sampling temperature; 0.8 is that of the published search."""


class ObserveConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[observe]: what a run says of itself beside metrics.jsonl."""

    trajectories: bool = False
    """Write which trajectories each update used, into the run's used.jsonl: to audit a run, as `tsd soak` does."""
    tensorboard: bool = False
    """Write the numbers of updates and evaluations for TensorBoard too, into the run's tensorboard/."""
    wandb: str = ""
    """Project of Weights & Biases that the numbers go to too; none where empty. WANDB_MODE=offline keeps them here."""
    prometheus_port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    """Port of 127.0.0.1 at which Prometheus finds the last numbers while the run is up; 0 for none."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run's configuration, all of it."""

    seed: Whole = 0
    """Seeds every random choice of the run."""
    method: Method = "mcts"
    """What the generators learn from: trees, or as baselines groups of samples, or the best of many samples."""
    task: TaskConfig = TaskConfig()
    reward: RewardConfig = RewardConfig()
    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    search: SearchConfig = SearchConfig()
    harvest: HarvestConfig = HarvestConfig()
    sample: SampleConfig = SampleConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    transport: TransportConfig = TransportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    observe: ObserveConfig = ObserveConfig()
    gpus: str = "cpu:gen,cpu:gen,cpu:train"
    """Default of `tsd launch --gpus`."""

    @property
    def whole_tree(self) -> bool:
        """Whether trajectories are whole trees."""
        return self.method == "mcts" and self.harvest.whole_tree

    @property
    def advantage(self) -> Literal["auto", "value", "group", "sibling", "tree"]:
        """`loss.advantage`, with `auto` as what it comes to."""
        if self.loss.advantage != "auto":
            return self.loss.advantage
        if self.whole_tree:
            return "tree" if self.search.rollout or self.search.kind == "index" else "sibling"
        return "group" if self.method == "cispo" else "value"

    def __post_init__(self) -> None:
        if self.whole_tree and self.loss.advantage == "group":
            raise ValueError(
                "loss.advantage = 'group' needs several trajectories, a tree is one; use 'sibling' or 'value'"
            )
        if not self.whole_tree and (self.loss.advantage == "sibling" or self.loss.c_visits):
            raise ValueError(
                "loss.advantage = 'sibling' and loss.c_visits need method = 'mcts', harvest.whole_tree = true"
            )
