"""A disk that takes no more: one line, an exit code, and everything that was whole before still whole.

The kernel refuses for real, by a limit on the size of a file: what writes cannot tell it from a full disk.
"""

import asyncio
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.support.launching import launched
from tests.support.runs import MOCK, TSD, state, updates
from tests.support.wire import trajectory
from tsd.config import load_config
from tsd.errors import CheckpointError, DiskError
from tsd.learn.checkpoint import TrainState, checkpoints_dir, latest_checkpoint, load_state, save_checkpoint
from tsd.learn.policy_learner import PolicyLearner
from tsd.learn.ranks import Ranks
from tsd.model.files import OPTIMIZER_FILE, model_path
from tsd.model.policy import Policy
from tsd.observe.metrics import METRICS_FILE, EventRow, MetricsReader, MetricsWriter
from tsd.run.child import FAULT, run_child
from tsd.transport.codec import decode
from tsd.transport.spool import Lane, leftovers
from tsd.types import Trajectory


@contextmanager
def files_end_at(num_bytes: int) -> Iterator[None]:
    """No file of this process grows past that: the kernel's answer is EFBIG in place of ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in checkpoints_dir(run_dir).iterdir())


# Checkpoints


def write(size: int) -> Callable[[Path], None]:
    """What saves so many bytes."""

    def save(directory: Path) -> None:
        (directory / "weights").write_bytes(b"x" * size)

    return save


def test_a_checkpoint_that_the_disk_does_not_take_leaves_the_last_one_and_nothing_of_itself(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, TrainState(update=5), write(100))
    with (
        files_end_at(2000),
        pytest.raises(CheckpointError, match=r"cannot write .*update-000006: .*File too large; free some space, then"),
    ):
        save_checkpoint(tmp_path, TrainState(update=6), write(3000))
    assert names(tmp_path) == ["update-000005"]
    last = latest_checkpoint(tmp_path)
    assert last is not None
    assert load_state(last).update == 5
    assert (last / "weights").stat().st_size == 100
    save_checkpoint(tmp_path, TrainState(update=6), write(3000))
    assert names(tmp_path) == ["update-000005", "update-000006"]


def test_a_checkpoint_written_again_and_refused_leaves_the_first(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, TrainState(update=5), write(100))
    with files_end_at(2000), pytest.raises(CheckpointError, match="File too large"):
        save_checkpoint(tmp_path, TrainState(update=5, complete=True), write(3000))
    assert names(tmp_path) == ["update-000005"]
    assert not load_state(checkpoints_dir(tmp_path) / "update-000005").complete


def test_what_a_killed_trainer_half_wrote_goes_with_the_next_checkpoint(tmp_path: Path) -> None:
    half = checkpoints_dir(tmp_path) / "update-000003.partial"
    half.mkdir(parents=True)
    (half / "weights").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, TrainState(update=5), write(100))
    assert names(tmp_path) == ["update-000005"]


@pytest.mark.parametrize("limit", [2**20, 2**22])
def test_the_files_of_a_real_model_are_refused_in_one_line_too(limit: int, tmp_path: Path) -> None:
    """3.3 MB of weights are past the first limit, 6.6 MB of the optimizer's past the second."""
    config = load_config(None, ["loss.c_kl=0"])
    learner = PolicyLearner(config, model_path("builtin:countdown-tiny"), None, Ranks())
    for parameter in learner.policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    learner.optimizer.step()
    save_checkpoint(tmp_path, TrainState(update=1), learner.save)
    before = (checkpoints_dir(tmp_path) / "update-000001" / OPTIMIZER_FILE).read_bytes()
    with (
        files_end_at(limit),
        pytest.raises(CheckpointError, match=r"cannot write .*update-000002: .*I/O error: File too large") as caught,
    ):
        save_checkpoint(tmp_path, TrainState(update=2), learner.save)
    assert len(str(caught.value).splitlines()) == 1
    assert names(tmp_path) == ["update-000001"]
    last = checkpoints_dir(tmp_path) / "update-000001"
    assert (last / OPTIMIZER_FILE).read_bytes() == before
    Policy.load(last)
    PolicyLearner(config, model_path("builtin:countdown-tiny"), last, Ranks())


# The spool


def test_half_a_frame_does_not_stay_in_the_spool(tmp_path: Path) -> None:
    lane = Lane(tmp_path, "0-a")
    lane.append(trajectory("0-a", serial=0))
    path = tmp_path / "0-a.00000000"
    size = path.stat().st_size
    with files_end_at(size + 100), pytest.raises(OSError, match=r"No space left|File too large"):
        lane.append(trajectory("0-a", serial=1))
    assert path.stat().st_size == size
    assert lane.num_appended == 1
    lane.append(trajectory("0-a", serial=1, group="after"))
    (again,) = leftovers(tmp_path, 0, 1)
    assert again.num_appended == 2
    assert decode(again.frame(1), Trajectory).group == "after"


# Metrics


def test_metrics_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).symlink_to("/dev/full")
    with (
        MetricsWriter(tmp_path) as metrics,
        pytest.raises(DiskError, match=rf"cannot write {tmp_path}/metrics\.jsonl: No space left on device; free some"),
    ):
        metrics.event("launcher", "hello")


def test_a_row_that_was_cut_short_is_an_error_and_spoils_no_other(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as metrics:
        metrics.event("launcher", "one")
        size = (tmp_path / METRICS_FILE).stat().st_size
        with files_end_at(size + 20), pytest.raises(DiskError, match="No space left on device"):
            metrics.event("launcher", "two")
    with MetricsWriter(tmp_path) as metrics:
        metrics.event("launcher", "three")
    rows = [row.text for row in MetricsReader(tmp_path).read() if isinstance(row, EventRow)]
    assert rows == ["one", "three"]


def test_metrics_in_a_directory_that_is_gone_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"cannot write .*/gone/metrics\.jsonl: No such file or directory"):
        MetricsWriter(tmp_path / "gone")


def test_a_child_names_a_full_disk_and_no_other_error_of_the_system(capsys: pytest.CaptureFixture[str]) -> None:
    async def fill() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(Path("/dev/full").write_bytes, b"x"))

    async def stumble() -> None:
        await asyncio.to_thread(Path("/no/such/file").read_bytes)

    assert run_child(fill()) == FAULT
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"
    with pytest.raises(FileNotFoundError):
        run_child(stumble())


# A whole run


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("limit_kb", "refused"), [(40, r"the spool in"), (80, r"\S*/metrics\.jsonl:")])
def test_a_run_whose_disk_is_full_ends_with_one_line_and_can_go_on(limit_kb: int, refused: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [*TSD, *MOCK, "--set", "train.checkpoint_every=2", "--max-updates", "500", "--run-dir", str(run_dir)]
    limited = ["bash", "-c", f'ulimit -S -f {limit_kb}; exec "$@"', "bash", *command]
    with launched(limited) as run:
        output, _ = run.process.communicate(timeout=120)
        assert run.process.returncode == 1
        assert run.alive() == []
    assert re.fullmatch(rf"error: .*cannot write {refused} .*free some space.*", output.splitlines()[-1])
    assert "Traceback" not in output
    reached = state(run_dir).update
    assert reached >= 2
    assert not list(checkpoints_dir(run_dir).glob("*.partial"))
    resume = [*TSD, "--resume", str(run_dir), "--max-updates", str(reached + 3)]
    with launched(resume) as run:
        output, _ = run.process.communicate(timeout=100)
        assert run.process.returncode == 0, output[-2000:]
    assert updates(run_dir)[-1].update == reached + 3
    assert output.splitlines()[-2].endswith("+ 0 lost")
