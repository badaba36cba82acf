"""Whole runs through `tsd launch`, in processes of their own: on the mock engine, on torch, and on vLLM."""

import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.launching import GONE_AFTER_S, launched, until
from tests.support.runs import BRIEF, MOCK, SMALL, TSD, finish, state, summary, updates
from tsd.learn.checkpoint import latest_checkpoint
from tsd.model.files import model_path
from tsd.model.policy import Policy


@pytest.mark.timeout(120)
def test_a_whole_run_on_the_mock_engine_learns_and_leaves_no_process(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with launched([*TSD, *MOCK, "--run-dir", str(run_dir)]) as run:
        report = finish(run, 100).splitlines()[-6:]
    found = summary(run_dir)
    assert (found["num_updates"], found["num_trajectories"]) == (12, 12 * 16)
    assert found["generated_tokens"] > 0
    assert 0 < found["training_seconds"] < found["seconds"] < 100
    before, after = found["before"], found["after"]
    assert (before["k"], before["num_problems"]) == (16, 64)
    assert before["ci95"][1] < after["ci95"][0], "the intervals lie apart"
    assert found["model"] == str(run_dir / "checkpoints" / "update-000012")
    assert report[0].startswith(f"before    mean@16 {before['mean_at_k']:.1%}, 95% interval ")
    assert report[1].startswith(f"after     mean@16 {after['mean_at_k']:.1%}, 95% interval ")
    books = found["books"]
    assert books["trained"] == 192
    assert books["produced"] == 192 + sum(books["refused"].values()) + books["in_flight"]
    assert report[-2].startswith(f"books     {books['produced']} trajectories = 192 trained + refused (")
    assert report[-2].endswith("in flight + 0 lost")
    assert report[-1] == f"model     {found['model']}"
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["update-000010", "update-000012"]
    assert [row.update for row in updates(run_dir)] == list(range(1, 13))
    assert state(run_dir).complete


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("method", "num_samples"), [("groups", 4), ("best-of-n", 8)])
def test_the_baselines_learn_through_the_same_pipeline(method: str, num_samples: int, tmp_path: Path) -> None:
    options = ("--set", f"method.kind={method}", "--set", f"method.num_samples={num_samples}")
    with launched([*TSD, *MOCK, *BRIEF, *options, "--max-updates", "4", "--run-dir", str(tmp_path / "run")]) as run:
        finish(run, 100)
    found = summary(tmp_path / "run")
    assert (found["num_updates"], found["num_trajectories"]) == (4, 32)
    rewards = [row.reward_mean for row in updates(tmp_path / "run")]
    assert (min(rewards) > 0.1) == (method == "best-of-n"), "of many samples the best is good, all of them are not"


@pytest.mark.timeout(120)
def test_a_stopped_run_resumes_and_uses_each_trajectory_once(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    slow = ("--set", "engine.mock_latency_s=0.02", "--max-updates", "20")
    with launched([*TSD, *MOCK, *slow, "--run-dir", str(run_dir)]) as run:
        until(lambda: len(updates(run_dir)) >= 3, "three updates", 60)
        run.process.send_signal(signal.SIGTERM)
        output, _ = run.process.communicate(timeout=GONE_AFTER_S)
        assert run.process.returncode == 143
        assert output.splitlines()[-1] == f"stopped; continue with: tsd launch --resume {run_dir}"
        assert run.alive() == []
    stopped = state(run_dir)
    assert 3 <= stopped.update < 20
    assert not stopped.complete
    with launched([*TSD, "--resume", str(run_dir)]) as run:
        finish(run, 100)
    rows = updates(run_dir)
    assert [row.update for row in rows] == list(range(1, 21)), "no update is lost or made twice"
    assert [row.num_trajectories for row in rows] == [16 * row.update for row in rows]
    assert summary(run_dir)["num_trajectories"] == 20 * 16
    assert state(run_dir).complete


@pytest.mark.timeout(120)
def test_two_generators_and_two_trainers_work_together(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    gpus = ("--gpus", "cpu:gen,cpu:gen,cpu:train,cpu:train", "--max-updates", "4")
    with launched([*TSD, *MOCK, *gpus, "--run-dir", str(run_dir)]) as run:
        finish(run, 100)
    assert summary(run_dir)["num_updates"] == 4
    assert sorted(path.stem for path in (run_dir / "logs").iterdir()) == [
        "evaluate-after",
        "evaluate-before",
        "generator-0",
        "generator-1",
        "trainer-0",
        "trainer-1",
    ]


def check_trained_model(run_dir: Path) -> None:
    """The checkpoint is a Hugging Face model that differs from the one training began with."""
    checkpoint = latest_checkpoint(run_dir)
    assert checkpoint is not None
    assert summary(run_dir)["model"] == str(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint))
    causal = AutoModelForCausalLM.from_pretrained(str(checkpoint))
    tokens = torch.tensor([tokenizer.encode("5 13 5 9=31:", add_special_tokens=False)])
    trained, start = Policy.load(checkpoint), Policy.load(model_path("builtin:countdown-tiny"))
    with torch.no_grad():
        logits, values = trained(tokens)
        first_logits, first_values = start(tokens)
        torch.testing.assert_close(logits, causal(tokens).logits)
    assert not torch.equal(logits, first_logits)
    assert not torch.equal(values, first_values), "the value head is saved, and learns"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("trainers", [1, 2])
def test_a_whole_run_on_torch_trains_the_tiny_model(tmp_path: Path, trainers: int) -> None:
    run_dir = tmp_path / "run"
    gpus = ",".join(["cpu:gen", *["cpu:train"] * trainers])
    with launched([*TSD, *SMALL, "--max-updates", "2", "--gpus", gpus, "--run-dir", str(run_dir)]) as run:
        finish(run, 180)
    found = summary(run_dir)
    assert (found["num_updates"], found["num_trajectories"]) == (2, 16)
    assert found["before"]["format_rate"] > 0.8
    first, second = updates(run_dir)
    assert first.age_mean == 0
    assert first.logprob_gap is not None
    assert first.logprob_gap < 1e-4, "the trainer sees what the engine sampled from"
    assert first.ratio_mean == pytest.approx(1, abs=1e-3)
    assert (first.version, second.version) == (0, 1)
    check_trained_model(run_dir)


@pytest.mark.vllm
@pytest.mark.timeout(400)
def test_a_whole_run_on_vllm_trains_the_tiny_model(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = ("engine.kind=vllm", "engine.eager=true", "engine.max_sequences=64", "engine.cache_mb=128")
    vllm = (f"--set={setting}" for setting in settings)
    with launched([*TSD, *SMALL, *vllm, "--max-updates", "2", "--run-dir", str(run_dir)]) as run:
        finish(run, 390)
    found = summary(run_dir)
    assert (found["num_updates"], found["num_trajectories"]) == (2, 16)
    assert found["before"]["format_rate"] > 0.8
    first = updates(run_dir)[0]
    assert first.logprob_gap is not None
    assert first.logprob_gap < 1e-3, "the trainer sees what the engine sampled from"
    check_trained_model(run_dir)
