"""Checkpoints carry checksums: what is damaged is set aside, said, and given to nobody."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.rows import update_row
from tsd.learn.checkpoint import TrainState, damage, latest_checkpoint, load_state, save_checkpoint, set_damaged_aside
from tsd.observe.metrics import MetricsWriter
from tsd.report.export import export
from tsd.run.rundir import lost_work


def save(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"weights" * 100)
    (directory / "value_head.safetensors").write_bytes(b"head")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """With three checkpoints."""
    for update in (5, 10, 15):
        save_checkpoint(tmp_path, TrainState(update=update), save, num_kept=3)
    (tmp_path / "config.toml").write_text("")
    return tmp_path


def newest(run_dir: Path) -> Path:
    found = latest_checkpoint(run_dir)
    assert found is not None
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "model.safetensors is not as it was written": lambda at: cut(at / "model.safetensors"),
    "model.safetensors is missing": lambda at: (at / "model.safetensors").unlink(),
    "value_head.safetensors is missing": lambda at: (at / "value_head.safetensors").unlink(),
    "state.json is not as it was written": lambda at: (at / "state.json").write_bytes(b""),
    "checksums.json cannot be read": lambda at: (at / "checksums.json").write_bytes(b"{"),
}


def test_a_whole_checkpoint_is_found_whole(run_dir: Path) -> None:
    assert damage(newest(run_dir)) is None
    assert list(set_damaged_aside(run_dir)) == []


@pytest.mark.parametrize("wrong", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_for_the_newest_whole_one(run_dir: Path, wrong: str) -> None:
    DAMAGES[wrong](newest(run_dir))
    assert list(set_damaged_aside(run_dir)) == [
        f"checkpoint update-000015 is damaged: {wrong}; it is set aside, and training goes on from update-000010"
    ]
    assert load_state(newest(run_dir)).update == 10
    assert (run_dir / "checkpoints" / "update-000015.damaged").is_dir(), "nothing is deleted"


def test_where_none_is_whole_that_is_said(run_dir: Path) -> None:
    for checkpoint in (run_dir / "checkpoints").iterdir():
        cut(checkpoint / "model.safetensors")
    *_, last = set_damaged_aside(run_dir)
    assert last.endswith("it is set aside, and no other is left, training begins anew")
    assert latest_checkpoint(run_dir) is None


def test_a_damaged_checkpoint_is_not_exported(run_dir: Path, tmp_path: Path) -> None:
    cut(newest(run_dir) / "model.safetensors")
    with pytest.raises(ValueError, match=r"update-000015 is damaged: model\.safetensors is not as it was written"):
        export(run_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew_in_silence(tmp_path: Path) -> None:
    assert list(lost_work(tmp_path)) == []
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(update_row(3, time_s=1.0))
    assert list(lost_work(tmp_path)) == [
        f"{tmp_path} made 3 updates and has no checkpoint: training begins anew from its start"
    ]
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match="made 3 updates, and its checkpoints are gone: put them back"):
        list(lost_work(tmp_path))
    save_checkpoint(tmp_path, TrainState(update=3), save, num_kept=3)
    assert list(lost_work(tmp_path)) == []
