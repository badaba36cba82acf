"""Evaluation beside training: which checkpoints wait for it, what is kept, when training ends, and what is shown."""

import re
import shutil
from pathlib import Path

import pytest

from tests.support.drawing import drawn
from tests.support.launching import launched
from tests.support.runs import BRIEF, MOCK, SMALL, TSD, finish, state, summary
from tsd.config import TrainConfig, load_config, save_config
from tsd.learn.checkpoint import BEST, WAITING, TrainState, load_state, marked, reached_end, save_checkpoint
from tsd.learn.validation import (
    MOST_WAITING,
    Record,
    chosen_checkpoint,
    load_record,
    mark_for_validation,
    settle,
    why_chosen,
)
from tsd.model.files import model_path
from tsd.observe.dashboard import plain_line
from tsd.observe.metrics import EvaluationRow, MetricsReader, UpdateRow
from tsd.observe.scalars import scalars
from tsd.observe.state import RunState
from tsd.report.export import export
from tsd.report.figures import validations
from tsd.report.page import page
from tsd.report.run import read_run
from tsd.run.launch import Request, dry_run

KEEP = TrainConfig(keep_best=True, checkpoints_kept=1)


def saved(run_dir: Path, update: int) -> Path:
    path = save_checkpoint(run_dir, TrainState(update=update), lambda path: None, num_kept=1)
    mark_for_validation(run_dir, path)
    return path


def validated(run_dir: Path, update: int, mean: float, train: TrainConfig = KEEP) -> Path:
    path = saved(run_dir, update)
    settle(run_dir, path, Record(update=update, mean_at_k=mean, k=4, num_problems=10), train)
    return path


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def there(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_a_checkpoint_that_waits_is_not_deleted_and_goes_once_it_is_validated(tmp_path: Path) -> None:
    first = saved(tmp_path, 1)
    saved(tmp_path, 2)
    assert names(marked(tmp_path, WAITING)) == ["update-000001", "update-000002"]
    settle(tmp_path, first, Record(update=1, mean_at_k=0.5, k=4, num_problems=10), TrainConfig(checkpoints_kept=1))
    assert there(tmp_path) == ["update-000002"]


def test_the_best_is_kept_until_another_does_better(tmp_path: Path) -> None:
    for update, mean, best in [(1, 0.2, 1), (2, 0.4, 2), (3, 0.4, 2), (4, 0.3, 2), (5, 0.5, 5), (6, 0.1, 5)]:
        validated(tmp_path, update, mean)
        assert names(marked(tmp_path, BEST)) == [f"update-{best:06d}"]
        assert there(tmp_path) == sorted({f"update-{best:06d}", f"update-{update:06d}"})
    assert load_record(tmp_path) == Record(update=5, mean_at_k=0.5, k=4, num_problems=10, num_worse=1)


def test_a_best_one_that_was_not_kept_gives_way_to_the_next(tmp_path: Path) -> None:
    validated(tmp_path, 1, 0.9, TrainConfig(checkpoints_kept=1))
    assert marked(tmp_path, BEST) == []
    validated(tmp_path, 2, 0.3)
    assert names(marked(tmp_path, BEST)) == ["update-000002"]


def test_a_checkpoint_that_is_written_again_keeps_its_marks(tmp_path: Path) -> None:
    validated(tmp_path, 1, 0.5)
    path = save_checkpoint(tmp_path, TrainState(update=1, complete=True), lambda path: None)
    assert (load_state(path).complete, names(marked(tmp_path, BEST))) == (True, ["update-000001"])


def test_where_validation_is_slow_few_wait_the_first_and_the_newest_among_them(tmp_path: Path) -> None:
    for update in range(1, 10):
        saved(tmp_path, update)
    waiting = names(marked(tmp_path, WAITING))
    assert len(waiting) == MOST_WAITING
    assert (waiting[0], waiting[-1]) == ("update-000001", "update-000009")


def test_training_ends_when_its_patience_is_used_up() -> None:
    patient, spent = TrainConfig(patience=3, time_limit_s=0), TrainState(num_worse=3)
    assert reached_end(patient, spent)
    assert not reached_end(patient, TrainState(num_worse=2))
    assert not reached_end(TrainConfig(time_limit_s=0), spent)


@pytest.mark.parametrize("wanted", ["train.keep_best=true", "train.patience=2"])
def test_what_needs_validation_is_refused_without_it(wanted: str) -> None:
    with pytest.raises(ValueError, match=r"set evaluate\.every"):
        load_config(None, [wanted])
    load_config(None, [wanted, "evaluate.every=5"])


def test_a_run_comes_to_its_best_where_that_is_kept_and_says_why(tmp_path: Path) -> None:
    best = validated(tmp_path, 1, 0.5)
    newest = validated(tmp_path, 2, 0.25)
    assert chosen_checkpoint(tmp_path, keep_best=True) == best
    why = "the best in validation, after update 1: mean@4 50.0% on 10 validation problems"
    assert why_chosen(tmp_path, best) == why
    assert chosen_checkpoint(tmp_path, keep_best=False) == newest
    assert why_chosen(tmp_path, newest) == "the newest, after update 2"


def test_a_plan_names_what_evaluates_beside_training() -> None:
    plan = dry_run(Request(overrides=("evaluate.every=50",), gpus="0-1:gen,2:train"))
    assert "820 held-out problems x 16 samples; 100 others every 50 updates" in plan
    assert re.search(r"generator-1 +GPU 1 .*\nvalidation +GPU 0 ", plan)


def test_an_export_is_of_the_best(tmp_path: Path) -> None:
    save_config(load_config(None, ["train.keep_best=true", "evaluate.every=1"]), tmp_path / "config.toml")
    best = validated(tmp_path, 1, 0.5)
    validated(tmp_path, 2, 0.25)
    shutil.copytree(model_path("builtin:countdown-tiny"), best, dirs_exist_ok=True)
    assert export(tmp_path, tmp_path / "out") == best
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert "the best in validation, after update 1" in (tmp_path / "out" / "README.md").read_text()


def row(update: int, mean: float) -> EvaluationRow:
    ci95 = (mean - 0.1, mean + 0.1)
    return EvaluationRow(when="during", update=update, num_done=9, num_problems=9, k=4, mean_at_k=mean, ci95=ci95)


def test_the_curve_has_the_updates_that_stand() -> None:
    run = RunState()
    for update in (2, 4, 6, 4):
        run.absorb(row(update, update / 10))
    assert [one.update for one in run.validations] == [2, 4]
    assert run.evaluations == {}
    (shown,) = (line for line in drawn(run, 0.0) if line.startswith("validated"))
    assert shown.split()[1:] == ["40.0%", "▁█", "best", "40.0%"]
    line = "evaluation during training, update 4: 9/9 problems, mean@4 50.0% (40.0% to 60.0%)"
    assert (plain_line(row(4, 0.5)) or "").endswith(line)
    assert scalars(row(4, 0.5)).keys() == {"validation/mean_at_k", "validation/ci95/low", "validation/ci95/high"}


@pytest.mark.timeout(180)
def test_a_run_with_validation_gives_a_curve_and_the_best_checkpoint(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = (
        "evaluate.every=2",
        "train.keep_best=true",
        "evaluate.validation_problems=30",
        "engine.mock_latency_s=0.02",
    )
    options = [word for one in settings for word in ("--set", one)]
    with launched([*TSD, *MOCK, *BRIEF, *options, "--max-updates", "60", "--run-dir", str(run_dir)]) as run:
        finish(run, 170)
    report = read_run(run_dir, "run")
    assert len(report.validations) >= 10
    assert report.validations[-1].update == 60
    best = max(report.validations, key=lambda point: point.mean)
    assert summary(run_dir)["model"].endswith(f"update-{best.update:06d}")
    assert load_state(marked(run_dir, BEST)[0]).update == best.update
    assert marked(run_dir, WAITING) == []
    first, *_, last = validations([report]).rows
    assert first[0] == f"update {report.validations[0].update}"
    assert last[1][0].endswith(f"at update {best.update}")
    assert f'"validations":[{{"update":{report.validations[0].update},' in page([report], [])


@pytest.mark.timeout(180)
def test_a_run_that_no_longer_improves_ends_early_and_is_done(tmp_path: Path) -> None:
    """No checkpoint of a model that solves everything is better than the first."""
    run_dir = tmp_path / "run"
    settings = ("evaluate.every=1", "train.patience=2", "evaluate.validation_problems=5", "engine.mock_solve_rate=1")
    options = [word for one in settings for word in ("--set", one)]
    with launched([*TSD, *MOCK, *BRIEF, *options, "--max-updates", "2000", "--run-dir", str(run_dir)]) as run:
        output = finish(run, 170)
    assert "training ends: 2 validations brought no new best (train.patience)" in output
    assert state(run_dir).complete
    assert state(run_dir).update < 2000


@pytest.mark.timeout(300)
def test_the_tiny_model_is_validated_while_it_learns(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = ("evaluate.every=2", "train.keep_best=true", "evaluate.validation_problems=8")
    options = [word for one in settings for word in ("--set", one)]
    with launched([*TSD, *SMALL, *options, "--max-updates", "6", "--run-dir", str(run_dir)]) as run:
        finish(run, 290)
    rows = MetricsReader(run_dir).read()
    during = [one for one in rows if isinstance(one, EvaluationRow) and one.when == "during"]
    assert during[-1].update == 6
    assert all(0 <= one.mean_at_k <= 1 for one in during)
    best = export(run_dir, tmp_path / "model")
    assert best == marked(run_dir, BEST)[0]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (best / "model.safetensors").read_bytes()
    assert len([one for one in rows if isinstance(one, UpdateRow)]) == 6
