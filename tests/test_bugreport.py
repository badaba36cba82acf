"""`tsd bugreport`: one text with what an issue should hold, and nothing that is nobody's business."""

from pathlib import Path

import pytest

from tests.support.command import tsd
from tests.support.launching import launched
from tests.support.runs import MOCK, SHORT, TSD, finish
from tsd.config import load_config, save_config
from tsd.doctor.bugreport import describe_run

SECRET = "/home/somebody/tsd-keys"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """What is left of a run that went wrong."""
    run_dir = tmp_path / "run"
    (run_dir / "logs").mkdir(parents=True)
    settings = ("engine.kind=mock", f"transport.keys={SECRET}", "observe.wandb=private-project")
    save_config(load_config(None, settings), run_dir / "config.toml")
    lines = [f'{{"kind":"event","source":"launcher","text":"number {i}"}}' for i in range(200)]
    (run_dir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (run_dir / "logs" / "trainer-0.log").write_text(f"in {tmp_path}/x: \x1b[31mfailed\n```\n# not a heading\n")
    return run_dir


def test_a_report_holds_versions_settings_findings_and_the_last_of_everything(run_dir: Path, tmp_path: Path) -> None:
    text = describe_run(run_dir, tmp_path)
    for title in (
        "Versions",
        "Configuration",
        "tsd doctor --quick",
        "Last of metrics.jsonl",
        "Last of logs/trainer-0.log",
    ):
        assert f"\n## {title}\n" in text
    assert "torch " in text
    assert "max_tokens = " in text
    assert "number 199" in text
    assert "number 100" not in text


def test_a_report_names_no_keys_no_account_and_no_home(run_dir: Path, tmp_path: Path) -> None:
    text = describe_run(run_dir, tmp_path)
    assert not any(secret in text for secret in (SECRET, "private-project", str(tmp_path)))
    assert "in ~/x" in text


def test_what_a_log_holds_ends_no_fence_and_moves_no_cursor(run_dir: Path, tmp_path: Path) -> None:
    text = describe_run(run_dir, tmp_path)
    assert "\x1b" not in text
    assert text.count("```") == 2 * text.count("\n## ")


def test_a_configuration_that_cannot_be_read_is_reported_too(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "config.toml").write_text("[search]\nnobody_knows = 1\n")
    text = describe_run(run_dir, tmp_path)
    assert "nobody_knows" in text
    assert "tsd doctor" not in text


def test_the_command_overwrites_nothing_and_wants_a_run(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.md"
    assert tsd("bugreport", str(run_dir), "--out", str(out)) == 0
    before = out.read_text()
    assert tsd("bugreport", str(run_dir), "--out", str(out)) == 2
    assert tsd("bugreport", str(tmp_path / "nowhere"), "--out", str(tmp_path / "other.md")) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_text() == before


@pytest.mark.timeout(120)
def test_a_real_run_can_be_reported(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with launched([*TSD, *MOCK, *SHORT, "--max-updates", "2", "--run-dir", str(run_dir)]) as run:
        finish(run, 100)
    text = describe_run(run_dir, Path.home())
    assert "## summary.json" in text
    assert "## Last of logs/generator-0.log" in text
