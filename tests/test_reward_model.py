"""A reward model among the rewards: what it says, many responses at once, and beside the event loop."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForSequenceClassification

from tests.support.fakes import ScriptedEngine, step
from tests.support.launching import launched
from tests.support.runs import MOCK, SHORT, TSD, finish, updates
from tsd.config import RewardConfig, load_config
from tsd.model.files import model_path
from tsd.model.tiny import NUM_ROWS, tiny_tokenizer
from tsd.tasks.countdown import Countdown, make_problem
from tsd.tasks.reward_model import RewardModel, Scored
from tsd.tasks.rewards import load_rewards, make_grader
from tsd.types import Expansion, Grade

PROBLEM = make_problem((2, 3), 6)
GRADE = Grade(0.0, False, True)
PAIRS = [("2 3=6:", "<answer>2*3</answer>"), ("2 3=6:", "<step>2+3=5</step><answer>2+3</answer>"), ("2 3=6:", "")]


def make_classifier(directory: Path, num_labels: int) -> str:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=NUM_ROWS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_labels=num_labels,
        pad_token_id=0,
        initializer_range=0.5,
    )
    Qwen2ForSequenceClassification(config).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(str(directory))
    return str(directory)


@pytest.mark.parametrize("num_labels", [1, 2])
def test_a_score_is_the_models_own_whatever_else_is_in_the_batch(num_labels: int, tmp_path: Path) -> None:
    path = make_classifier(tmp_path, num_labels)
    found = RewardModel(path).score(PAIRS * 20)
    model, tokenizer = Qwen2ForSequenceClassification.from_pretrained(path).eval(), tiny_tokenizer()
    for (question, response), score in zip(PAIRS * 20, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer.encode(question) + tokenizer.encode(response)])).logits[0]
        expected = logits.tanh()[0] if num_labels == 1 else 2 * logits.softmax(-1)[1] - 1
        assert score == pytest.approx(float(expected), abs=1e-4)
    assert len(set(found[:3])) == 3


class Counting(RewardModel):
    """Scores a response by its length, and keeps what it was asked, and where."""

    def __init__(self) -> None:
        self._scores, self._wanted, self._turn = {}, {}, asyncio.Lock()
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.has_begun, self.may_go = threading.Event(), threading.Event()

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.threads.add(threading.get_ident())
        self.has_begun.set()
        assert self.may_go.wait(10)
        self.batches.append(len(pairs))
        return [len(response) / 100 for _, response in pairs]


async def test_what_trees_ask_meanwhile_is_scored_together_and_beside_the_loop() -> None:
    model = Counting()
    async with asyncio.TaskGroup() as group:
        group.create_task(model.read(PROBLEM, "q", ["first"]))
        await asyncio.to_thread(model.has_begun.wait, 10)
        for count in range(1, 10):
            group.create_task(model.read(PROBLEM, "q", ["a" * count, "a"]))
        await asyncio.sleep(0)
        model.may_go.set()
    assert model.batches == [1, 9]
    assert threading.get_ident() not in model.threads
    assert model(PROBLEM, "aaa", 3, GRADE) == 0.03
    await model.read(PROBLEM, "q", ["aaa"])
    assert model.batches == [1, 9], "what is known is not scored again"


async def test_a_reader_that_is_cancelled_leaves_the_others_their_scores() -> None:
    model = Counting()
    first = asyncio.create_task(model.read(PROBLEM, "q", ["first"]))
    await asyncio.to_thread(model.has_begun.wait, 10)
    second = asyncio.create_task(model.read(PROBLEM, "q", ["second"]))
    await asyncio.sleep(0)
    first.cancel()
    model.may_go.set()
    await second
    assert first.cancelled()
    assert model(PROBLEM, "second", 1, GRADE) == 0.06


async def test_an_engine_gives_out_a_finished_response_once_it_is_read() -> None:
    read: list[list[tuple[int, ...]]] = []

    async def reading(responses: Sequence[Sequence[int]]) -> None:
        read.append([tuple(response) for response in responses])

    steps = (step(5, finish="end"), step(6, finish="step"))
    engine = Scored(ScriptedEngine(lambda state: Expansion(0.0, steps), latency_s=0.0), reading, 2)
    assert (await engine.expand((1, 2, 3), 2, 9)).steps == steps
    assert read == [[(3, 5)]]


def test_the_models_score_is_mixed_and_a_response_it_has_not_read_counts_as_the_worst() -> None:
    model, told = Counting(), list[str]()
    config = load_config(None, ["reward.model=/nowhere", "reward.weights={task=1, model=1}"])
    with pytest.raises(ValueError, match=r"reward\.model: expected .*, found no config\.json in /nowhere"):
        load_rewards(config)
    config = load_config(None, [f'reward.model="{model_path(config.model.path)}"', "reward.weights={task=1, model=1}"])
    grader = make_grader(Countdown(), config, told.append, model=model)
    assert grader is not None
    model.may_go.set()
    asyncio.run(model.read(PROBLEM, "q", ["<answer>2*3</answer>"]))
    assert grader(PROBLEM, "<answer>2*3</answer>", 5).parts == {"task": 1.0, "model": 0.2}
    assert grader(PROBLEM, "<answer>3*2</answer>", 5).parts == {"task": 1.0, "model": -1.0}
    assert "reward model failed" in told[0]


@pytest.mark.parametrize("changes", [{"model": "x"}, {"weights": {"model": 1.0}}])
def test_a_reward_model_and_its_weight_go_together(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"reward\.model and reward\.weights\.model: expected both or neither"):
        RewardConfig(**changes)  # type: ignore[arg-type]


def test_a_language_model_is_no_reward_model() -> None:
    """Its last layer would be filled at random."""
    with pytest.raises(ValueError, match=r"is no trained sequence classifier: it lacks score\.weight$"):
        RewardModel(str(model_path("builtin:countdown-tiny")))


@pytest.mark.timeout(180)
def test_a_run_mixes_what_a_reward_model_says(tmp_path: Path) -> None:
    path = make_classifier(tmp_path / "judge", 1)
    options = ("--set", f'reward.model="{path}"', "--set", "reward.weights={task=1, model=0.5}", "--max-updates", "2")
    run_dir = tmp_path / "run"
    with launched([*TSD, *MOCK, *SHORT, *options, "--gpus", "cpu:gen,cpu:train", "--run-dir", str(run_dir)]) as run:
        finish(run, 150)
    for row in updates(run_dir):
        assert row.rewards.keys() == {"task", "model"}
        assert -1 < row.rewards["model"] < 1
        assert row.reward_mean == pytest.approx((row.rewards["task"] + 0.5 * row.rewards["model"]) / 1.5)
    assert "reward model failed" not in (run_dir / "metrics.jsonl").read_text()
