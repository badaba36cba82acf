"""Whether an engine and the trainer's own model agree: logprobs and values, at the start and after new weights.

What `tsd doctor` asks of a running engine. A gap here biases every ratio of a run; one that shows only after new
weights is a stale copy of them, or keys and values kept too long. Knows nothing about runs.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import uvloop

from tsd.config import Config
from tsd.doctor.machine import Finding
from tsd.engine import make_engine
from tsd.model.files import model_path
from tsd.model.policy import Policy
from tsd.model.sampling import log_policy
from tsd.tasks import make_task
from tsd.types import Engine, Step

NUM_SAMPLES = 4
"""Steps sampled from each prompt."""
NUM_PROMPTS = 8
CHANGE = 0.02
"""Standard deviation of what is added to the weights for the second look, as a share of each tensor's own."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}
"""Mean difference in nats and in value: float32 engines are seen below 1e-5, bfloat16 rounds."""
DEADLINE_S = 600.0

State = tuple[int, ...]


@torch.no_grad()
def differences(
    policy: Policy, state: Sequence[int], steps: Sequence[Step], temperature: float
) -> Iterator[tuple[float, float]]:
    """How far the engine's logprob and its value are from the policy's, for each token of each step."""
    for step in steps:
        tokens = torch.tensor([[*state, *step.tokens]], device=policy.value_head.out.weight.device)
        logits, values = policy(tokens)
        before = slice(len(state) - 1, -1)  # the states before each token
        chosen = tokens[0, len(state) :, None]
        log_probs = log_policy(logits[0, before], temperature).gather(-1, chosen)[:, 0]
        for expected, value, found, given in zip(
            log_probs.tolist(), values[0, before].tolist(), step.logprobs, step.values, strict=True
        ):
            yield abs(expected - found), abs(value - given)


@dataclass(frozen=True, slots=True)
class Gap:
    """Means over tokens."""

    logprob: float
    value: float
    num_tokens: int
    seconds: float
    """That the engine took."""

    def finding(self, about: str, dtype: str, remedy: str) -> Finding:
        tolerance = TOLERANCE[dtype]
        text = f"logprobs differ by {self.logprob:.1e}, values by {self.value:.1e}, over {self.num_tokens:,} tokens"
        if max(self.logprob, self.value) <= tolerance:
            return Finding(about, "fine", text)
        return Finding(about, "error", f"{text}; {dtype} should stay below {tolerance:g}", remedy)


def examine_engine(config: Config) -> list[Finding]:
    """Starts the configured engine and compares. Raises EngineError where it does not start."""
    if not config.engine.needs_model:
        return [Finding("engine", "fine", f"{config.engine.kind} has no model to compare with")]
    directory = model_path(config.model.path)
    generation = make_engine(config, directory, temperature=config.engine.temperature, seed=config.seed)
    task = make_task(config.task)
    prompts = [
        generation.codec.encode(task.prompt(problem, config.task.style))
        for problem in task.problems("validation", NUM_PROMPTS, config.seed)
    ]
    room = _room(prompts, config)
    if room.level == "error":
        return [room]
    policy = Policy.load(directory).to("cuda" if torch.cuda.is_available() else "cpu")
    return [room, *uvloop.run(_compare(generation.engine, policy, prompts, config))]


async def _compare(engine: Engine, policy: Policy, prompts: Sequence[State], config: Config) -> list[Finding]:
    started, dtype = time.monotonic(), config.model.dtype
    async with asyncio.timeout(DEADLINE_S), engine:
        start = f"{config.engine.kind} started in {time.monotonic() - started:.1f} s"
        first = await _gap(engine, policy, prompts, config)
        _change(policy)
        await engine.load(policy.weights(1, dtype))
        second = await _gap(engine, policy, prompts, config)
    speed, at_once = second.num_tokens / second.seconds, len(prompts) * NUM_SAMPLES
    other = "engine and trainer are not the same model: report it with tsd bugreport"
    stale = "the engine keeps old weights, or keys and values of them: report it with tsd bugreport"
    return [
        Finding("engine", "fine", start),
        first.finding("engine against trainer", dtype, other),
        second.finding("after new weights", dtype, stale),
        Finding("speed", "fine", f"{speed:,.0f} tokens/s with {at_once} samples at once"),
    ]


def _room(prompts: Sequence[State], config: Config) -> Finding:
    longest, limit = max(map(len, prompts)), config.engine.max_model_tokens
    text = f"up to {longest} tokens, {config.search.max_path_tokens} of response, engine.max_model_tokens {limit}"
    if longest >= limit:
        return Finding("prompts", "error", f"{text}: no room to answer", "raise engine.max_model_tokens")
    if longest + config.search.max_path_tokens > limit:
        remedy = f"raise engine.max_model_tokens to {longest + config.search.max_path_tokens}"
        return Finding("prompts", "warning", f"{text}: long responses are cut", remedy)
    return Finding("prompts", "fine", text)


async def _gap(engine: Engine, policy: Policy, prompts: Sequence[State], config: Config) -> Gap:
    """K samples from each prompt, twice, so that the second finds what the first left in the prefix cache."""
    limit = min(config.search.max_step_tokens, config.engine.max_model_tokens - max(map(len, prompts)))
    started, pairs = time.monotonic(), list[tuple[State, Sequence[Step]]]()
    for _ in range(2):
        calls = (engine.expand(prompt, NUM_SAMPLES, limit) for prompt in prompts)
        answers = await asyncio.gather(*calls)
        pairs += [(prompt, answer.steps) for prompt, answer in zip(prompts, answers, strict=True)]
    seconds = time.monotonic() - started
    found = await asyncio.to_thread(
        lambda: [d for state, steps in pairs for d in differences(policy, state, steps, config.engine.temperature)]
    )
    logprob, value = (sum(side) / len(found) for side in zip(*found, strict=True))
    return Gap(logprob, value, len(found), seconds)


@torch.no_grad()
def _change(policy: Policy) -> None:
    """Weights as different as some updates would make them."""
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.add_(noise * CHANGE * (parameter.std() if parameter.numel() > 1 else 1.0))
