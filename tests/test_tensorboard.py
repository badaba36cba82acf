"""TensorBoard, when asked for: every number of a row is there, and read back as it was written."""

import sys
from pathlib import Path

import pytest
from msgspec.structs import asdict, replace
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.launching import launched
from tests.support.rows import EVALUATION, ROW
from tests.support.runs import MOCK, SHORT, TSD, finish, summary, updates
from tsd.config import ObserveConfig
from tsd.observe.metrics import EventRow, MetricsRow, MetricsWriter
from tsd.observe.scalars import AXES, scalars
from tsd.observe.tensorboard import FOLDER, check_tensorboard, open_tensorboard

ON = ObserveConfig(tensorboard=True)


def written(run_dir: Path, update: int, *rows: MetricsRow) -> None:
    with open_tensorboard(run_dir, ON, update) as board, MetricsWriter(run_dir, board) as metrics:
        for row in rows:
            metrics.write(row)


def points(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """By tag, what TensorBoard shows: steps and values."""
    events = EventAccumulator(str(run_dir / FOLDER)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_number_of_an_update_is_read_back_at_its_step(tmp_path: Path) -> None:
    later = replace(ROW, time_s=ROW.time_s + 9, update=2, loss=0.0625, explained_variance=-1.5, ages={"2": 12})
    written(tmp_path, 0, ROW, later)
    found = points(tmp_path)
    for name, value in asdict(ROW).items():
        if isinstance(value, int | float) and name not in AXES:
            assert found.pop(name) == [(1, value), (2, getattr(later, name))]
    assert found.pop("explained_variance") == [(2, -1.5)], "None is left out"
    assert [found.pop(f"ratio_quantiles/{q}") for q in ("0.01", "0.5", "0.99")] == [
        [(1, value), (2, value)] for value in ROW.ratio_quantiles
    ]
    assert found.pop("rewards/task") == [(1, 0.5), (2, 0.5)]
    assert found.pop("rewards/length") == [(1, -0.25), (2, -0.25)]
    assert [found.pop(f"ages/{age}") for age in (0, 1, 2)] == [[(1, 8)], [(1, 4)], [(2, 12)]]
    assert found.pop("num_refused/stale") == [(1, 2), (2, 2)]
    assert found == {}
    events = EventAccumulator(str(tmp_path / FOLDER)).Reload()
    assert [event.wall_time for event in events.Scalars("loss")] == [ROW.time_s, later.time_s]


def test_updates_made_again_after_a_resume_replace_the_lost_ones(tmp_path: Path) -> None:
    written(tmp_path, 0, *(replace(ROW, update=update, loss=0.5) for update in (1, 2, 3)))
    written(tmp_path, 1, replace(ROW, update=2, loss=0.25))
    assert points(tmp_path)["loss"] == [(1, 0.5), (2, 0.25)]


def test_an_evaluation_stands_at_the_update_it_measured_once_it_is_done(tmp_path: Path) -> None:
    written(tmp_path, 7, replace(EVALUATION, num_done=10, mean_at_k=0.75), EventRow(source="x", text="y"), EVALUATION)
    assert points(tmp_path) == {
        "evaluation/mean_at_k": [(7, 0.25)],
        "evaluation/ci95/low": [(7, 0.125)],
        "evaluation/ci95/high": [(7, 0.5)],
    }


def test_lists_of_another_length_go_by_number() -> None:
    found = scalars(replace(ROW, ratio_quantiles=(0.5, 2.0)))
    assert (found["ratio_quantiles/0"], found["ratio_quantiles/1"]) == (0.5, 2.0)
    assert not any(tag.startswith("ratio_quantiles") for tag in scalars(replace(ROW, ratio_quantiles=())))


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    check_tensorboard(ON)
    with open_tensorboard(tmp_path, ObserveConfig(), 0) as board:
        assert board is None
    assert not (tmp_path / FOLDER).exists()


def test_a_launch_without_the_package_is_refused_in_one_line(tmp_path: Path) -> None:
    without = "import sys; sys.modules['tensorboard'] = None; from tsd.cli.app import main; sys.exit(main())"
    options = ("--set", "observe.tensorboard=true", "--run-dir", str(tmp_path / "run"))
    with launched([sys.executable, "-c", without, "launch", *MOCK, *options]) as run:
        output, _ = run.process.communicate(timeout=50)
    assert run.process.returncode == 2
    assert output == "error: observe.tensorboard: TensorBoard is not installed; run pip install 'tsd[tensorboard]'\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(120)
def test_a_run_writes_its_updates_and_evaluations(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    options = ("--set", "observe.tensorboard=true", "--max-updates", "2", "--run-dir", str(run_dir))
    with launched([*TSD, *MOCK, *SHORT, *options]) as run:
        finish(run, 100)
    found = {tag: dict(curve) for tag, curve in points(run_dir).items()}
    assert found["reward_mean"] == pytest.approx({row.update: row.reward_mean for row in updates(run_dir)})
    means = [summary(run_dir)[when]["mean_at_k"] for when in ("before", "after")]
    assert found["evaluation/mean_at_k"] == pytest.approx({0: means[0], 2: means[1]})
