"""A launch from start to end, and every way it can end early. Small scripts stand in for the run's processes."""

import asyncio
import fcntl
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.launching import FAKE, PATIENCE_S, until
from tsd.cli.app import exit_code
from tsd.config import load_config, save_config
from tsd.config.devices import parse_gpus
from tsd.errors import ProcessError, TaskError
from tsd.learn.checkpoint import WAITING, marked
from tsd.observe.metrics import MetricsReader, Told
from tsd.run import rundir
from tsd.run.child import HOPELESS
from tsd.run.launch import Request, dry_run, launch
from tsd.run.supervisor import Programs, Run, supervise


def _programs() -> Programs:
    evaluate, trainer, generator = (
        (sys.executable, "-S", str(FAKE), role) for role in ("evaluate", "trainer", "generator")
    )
    return Programs(evaluate, trainer, generator)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A prepared run whose first searching generator lets the trainers finish."""
    directory = tmp_path / "run"
    rundir.create(directory)
    (directory / "crashes").write_text("0")
    (directory / "generators-release").touch()
    config = load_config(None, ["engine.kind=mock", "train.num_updates=5", "engine.num_threads=3"])
    return Run(config, parse_gpus("cpu:gen,cpu:train"), directory, dict(os.environ), _programs(), (0.01, 0.01, 0.01), 2)


async def _supervise(run: Run) -> rundir.Summary:
    with rundir.locked(run.directory) as lock:
        return await supervise(run, lock, Console(file=io.StringIO()))


def _events(run: Run) -> list[str]:
    return [row.text for row in MetricsReader(run.directory).read() if isinstance(row, Told)]


def _started(run: Run, name: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((run.directory / f"started-{name}").read_text())
    return found


async def test_a_run_goes_through_its_phases_to_a_summary(run: Run) -> None:
    summary = await _supervise(run)
    assert (summary.num_updates, summary.num_trajectories, summary.generated_tokens) == (5, 160, 9000)
    assert summary.before == summary.after == {"mean_at_k": 0.25, "k": 16}
    assert 0 < summary.seconds < 20
    assert json.loads((run.directory / "summary.json").read_text())["seconds"] == summary.seconds
    phases = [text.split(":")[0] for text in _events(run)]
    assert _events(run)[-1].startswith("done: mean@16 25.0% before, 25.0% after 5 updates; see ")
    assert phases == ["launched", "evaluation before", "training", "evaluation after", "done"]


def test_a_run_directory_is_its_users_alone(tmp_path: Path) -> None:
    rundir.create(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


async def test_each_process_sees_its_own_device_and_threads(run: Run) -> None:
    await _supervise(replace(run, placement=parse_gpus("4-5:gen,6-7:train")))
    seen = {
        name: _started(run, f"{name}-0")["environment"]
        for name in ("generator-1", "trainer-0", "trainer-1", "evaluate")
    }
    assert {name: env["CUDA_VISIBLE_DEVICES"] for name, env in seen.items()} == {
        "generator-1": "5",
        "trainer-0": "6",
        "trainer-1": "7",
        "evaluate": "4",
    }
    assert (seen["generator-1"]["OMP_NUM_THREADS"], seen["trainer-0"]["OMP_NUM_THREADS"]) == ("3", "1")
    assert seen["trainer-0"]["MASTER_PORT"] == seen["trainer-1"]["MASTER_PORT"] is not None


async def test_a_generator_over_two_gpus_sees_both(run: Run) -> None:
    await _supervise(replace(run, placement=parse_gpus("0+3:gen,6:train")))
    seen = [_started(run, name)["environment"]["CUDA_VISIBLE_DEVICES"] for name in ("generator-0-0", "evaluate-0")]
    assert seen == ["0,3", "0,3"]


async def test_a_generator_that_dies_is_started_again(run: Run) -> None:
    (run.directory / "crashes").write_text("2")
    await _supervise(run)
    deaths = [text for text in _events(run) if "starting it again" in text]
    assert len(deaths) == 2
    assert deaths[1].startswith("generator-0 ended with exit code 1; its log ")
    assert "ends: error: crash 1;" in deaths[1]


async def test_a_generator_that_keeps_dying_fails_the_run_after_a_checkpoint(run: Run) -> None:
    (run.directory / "crashes").write_text("99")
    with pytest.raises(ProcessError, match=r"generator-0 ended with exit code 1.*died 4 times.*tsd launch --resume"):
        await _supervise(run)
    assert (run.directory / "checkpoints" / "update-000003" / "state.json").exists(), "the trainer wrote a checkpoint"
    assert _events(run)[-1].startswith("failed: generator-0")


async def test_a_trainer_that_fails_ends_the_run_and_says_how_to_go_on(run: Run) -> None:
    (run.directory / "trainer-fails").touch()
    with pytest.raises(ProcessError) as failure:
        await _supervise(run)
    assert str(failure.value) == (
        f"trainer-0 ended with exit code 2; its log {run.directory}/logs/trainer-0.log ends: error: out of memory; "
        f"start it again with: tsd launch --resume {run.directory}"
    )


async def test_a_trainer_that_is_killed_goes_on_from_its_checkpoint_while_generators_live(run: Run) -> None:
    (run.directory / "trainer-crashes").write_text("2")
    await _supervise(replace(run, placement=parse_gpus("0:gen,1-2:train")))
    deaths = [text for text in _events(run) if "trainers go on from" in text]
    assert ["update-000001" in deaths[0], "update-000002" in deaths[1]] == [True, True]
    assert "ended with signal SIGKILL" in deaths[0]
    assert len(list(run.directory.glob("started-generator-0-*"))) == 1


async def test_a_device_that_keeps_failing_is_given_up_while_another_is_left(run: Run) -> None:
    (run.directory / "crashes-generator-0").write_text("99")
    (run.directory / "generators-release").unlink()

    def given_up() -> bool:
        return any("generator-0" in text and "device 0 is given up" in text for text in _events(run))

    def release() -> None:
        until(given_up, "a device to be given up")
        (run.directory / "release").touch()

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(release))
        summary = await _supervise(replace(run, placement=parse_gpus("0-1:gen,2:train")))
    assert summary.num_updates == 5
    assert len(list(run.directory.glob("started-generator-0-*"))) == 4


async def test_a_frozen_generator_is_killed_and_replaced(run: Run) -> None:
    (run.directory / "freezes").write_text("1")
    config = load_config(None, ["engine.kind=mock", "train.num_updates=5", "transport.frozen_s=0.5"])
    await _supervise(replace(run, config=config))
    assert any("generator-0 is frozen: its event loop has not turned for 0.5 s" in text for text in _events(run))
    assert len(list(run.directory.glob("started-generator-0-*"))) == 2


async def test_a_frozen_evaluation_is_killed_and_named(run: Run) -> None:
    (run.directory / "evaluation-freezes").touch()
    config = load_config(None, ["engine.kind=mock", "transport.frozen_s=0.5"])
    with pytest.raises(ProcessError, match="evaluate-before ended with signal SIGKILL"):
        await _supervise(replace(run, config=config))
    assert any("evaluate-before is frozen: its event loop has not turned for 0.5 s" in text for text in _events(run))


async def test_a_trained_run_only_gets_what_is_missing(run: Run) -> None:
    first = await _supervise(run)
    (run.directory / "after.json").unlink()
    second = await _supervise(run)
    assert any(text.startswith("trained already") for text in _events(run))
    assert _events(run).count("training: to update 5") == 1
    assert second.seconds > first.seconds, "time adds up over launches"


async def test_more_updates_train_and_evaluate_again(run: Run) -> None:
    await _supervise(run)
    before = _started(run, "evaluate-0")
    longer = load_config(None, ["engine.kind=mock", "train.num_updates=7"])
    with pytest.raises(ProcessError, match="stopped before its last update"):  # the fake ends at update 5 all the same
        await _supervise(replace(run, config=longer))
    assert _events(run).count("training: to update 7") == 1
    assert not (run.directory / "after.json").exists(), "what it said is of an earlier state"
    assert _started(run, "evaluate-0") == before, "the first evaluation stands"


@pytest.fixture
def validating(run: Run) -> Run:
    """Whose trainers end only once their first checkpoint is being evaluated."""
    (run.directory / "generators-release").unlink()
    checkpoint = run.directory / "checkpoints" / "update-000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text('{"update": 1}')
    (checkpoint / WAITING).touch()
    return replace(run, config=load_config(None, ["engine.kind=mock", "train.num_updates=5", "evaluate.every=1"]))


async def test_a_checkpoint_is_validated_beside_training(validating: Run) -> None:
    await _supervise(validating)
    asked = list(_started(validating, "evaluate-1")["argv"])
    checkpoint = validating.directory / "checkpoints" / "update-000001"
    assert asked == ["evaluate", str(validating.directory), "--when", "during", "--checkpoint", str(checkpoint)]
    assert marked(validating.directory, WAITING) == []


async def test_a_validation_that_fails_is_a_warning_and_training_goes_on(validating: Run) -> None:
    (validating.directory / "validation-fails").write_text("1")
    await _supervise(validating)
    said = "update-000001 is not validated: evaluate-during ended with exit code 1"
    assert any(text.startswith(said) for text in _events(validating))
    assert marked(validating.directory, WAITING) == []


async def test_a_users_task_that_fails_in_validation_ends_the_run(validating: Run) -> None:
    (validating.directory / "validation-fails").write_text(str(HOPELESS))
    with pytest.raises(TaskError, match="evaluate-during ended with exit code 3"):
        await _supervise(validating)


def test_a_used_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=f"not empty; continue that run with --resume {tmp_path}"):
        launch(Request(run_dir=tmp_path), Console())


def test_resuming_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.toml there"):
        launch(Request(resume=tmp_path), Console())


def test_a_run_in_use_is_refused(run: Run) -> None:
    (run.directory / "config.toml").write_text("")
    with (
        rundir.locked(run.directory),
        pytest.raises(ValueError, match=f"in use by another tsd launch, process {os.getpid()}"),
    ):
        launch(Request(resume=run.directory), Console())


def test_a_lock_held_for_a_dead_launcher_is_waited_for(run: Run) -> None:
    path = run.directory / rundir.LOCK_FILE
    path.write_text("4194305")  # no process has this number: it is past the kernel's largest
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[held.fileno()])
    with holder:
        assert holder.stdin is not None
        holder.stdin.close()
        with rundir.locked(run.directory):
            assert path.read_text() == str(os.getpid())


def test_a_dry_run_prints_the_plan_and_makes_nothing(tmp_path: Path) -> None:
    request = Request(run_dir=tmp_path / "new", gpus="0-5:gen,6-7:train", overrides=("model.path=/x/Qwen2.5-1.5B",))
    assert "generator-5  GPU 5" in dry_run(request)
    assert not (tmp_path / "new").exists()


def test_options_that_contradict_each_other_are_refused(run: Run) -> None:
    (run.directory / "config.toml").write_text("")
    with pytest.raises(ValueError, match="--resume takes neither"):
        dry_run(Request(resume=run.directory, config=Path("x.toml")))


def test_errors_are_one_line_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise ValueError("no such thing")

    def fail() -> None:
        raise ProcessError("trainer-0 ended")

    assert (exit_code(refuse), exit_code(fail)) == (2, 1)
    assert capsys.readouterr().err == "error: no such thing\nerror: trainer-0 ended\n"


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, tsd.cli.app, tsd.run.launch; sys.exit('torch' in sys.modules or 'zmq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S, check=False).returncode == 0


def test_processes_of_the_mock_engine_start_without_torch() -> None:
    modules = "tsd.trainer.trainer, tsd.generator.generator, tsd.solve.evaluate, tsd.cli.commands"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S, check=False).returncode == 0


@pytest.mark.parametrize(
    "setting", ["engine.kind=torch", "model.path=/elsewhere", "train.lora_rank=4", "loss.c_kl=inf"]
)
def test_a_change_that_cannot_work_leaves_the_run_as_it_was(run: Run, setting: str) -> None:
    save_config(run.config, run.directory / "config.toml")
    before = (run.directory / "config.toml").read_text()
    with pytest.raises(ValueError, match=setting.partition("=")[0].replace(".", r"\.")):
        launch(Request(resume=run.directory, overrides=(setting,)), Console())
    assert (run.directory / "config.toml").read_text() == before
