"""Children are started, watched and ended; the guardian ends what a dead launcher leaves."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tsd.errors import ProcessError
from tsd.observe.metrics import ProcessRow
from tsd.run import guardian
from tsd.run.processes import Child, Children

PATIENCE_S = 15.0
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(99)"
)
WITH_GRANDCHILD = f"""
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-S", "-c", {STUBBORN!r}], stdout=subprocess.PIPE)
grandchild.stdout.readline()
print("grandchild", grandchild.pid, flush=True)
"""


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        await asyncio.sleep(0.02)


async def _spawn(children: Children, directory: Path, code: str, name: str = "child") -> Child:
    argv = [sys.executable, "-c", code]
    return await children.spawn(name, argv, dict(os.environ) | {"GREETING": "hello"}, directory / f"{name}.log")


async def _grandchild(log: Path) -> int:
    await _until(lambda: "grandchild" in log.read_text(), "the grandchild to start")
    return _last_number(log)


def _last_number(log: Path) -> int:
    return int(log.read_text().split()[-1])


async def test_a_child_leads_a_session_and_logs_what_it_prints(tmp_path: Path) -> None:
    async with Children(grace_s=5) as children:
        code = "import os; print(os.environ['GREETING'], os.getsid(0) == os.getpid() == os.getpgid(0))"
        child = await _spawn(children, tmp_path, code)
        assert await children.wait(child) == 0
    assert child.log_path.read_text() == "hello True\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "print('x'); raise SystemExit('error: no such model')",
            "exit code 1; its log {log} ends: error: no such model",
        ),
        ("raise SystemExit(3)", "exit code 3; its log {log} is empty"),
        ("import os; os.kill(os.getpid(), 9)", "signal SIGKILL; its log {log} is empty"),
    ],
)
async def test_a_failure_is_one_line_with_cause_and_log(tmp_path: Path, code: str, message: str) -> None:
    async with Children(grace_s=5) as children:
        child = await _spawn(children, tmp_path, code)
        await children.wait(child)
    assert str(child.failure()) == "child ended with " + message.format(log=tmp_path / "child.log")


async def test_a_program_that_is_not_there_is_a_process_error(tmp_path: Path) -> None:
    async with Children(grace_s=5) as children:
        with pytest.raises(ProcessError, match="trainer-0 cannot be started"):
            await children.spawn("trainer-0", ["/no/such/program"], {}, tmp_path / "log")


async def test_leaving_asks_first_and_kills_what_is_late(tmp_path: Path) -> None:
    reports = list[ProcessRow]()
    polite = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('bye'))); print('ready'); time.sleep(99)"
    )
    async with Children(grace_s=1, report=reports.append) as children:
        obeying = await _spawn(
            children, tmp_path, f"import sys; sys.stdout.reconfigure(line_buffering=True); {polite}", "a"
        )
        stubborn = await _spawn(children, tmp_path, STUBBORN, "b")
        for child in (obeying, stubborn):
            await _until(lambda child=child: "ready" in child.log_path.read_text(), child.name)  # type: ignore[misc]
    assert "bye" in obeying.log_path.read_text()
    assert (obeying.process.returncode, stubborn.process.returncode) == (0, -signal.SIGKILL)
    (report,) = reports
    assert (report.process, report.what) == ("b", "late")
    assert report.text == "b did not end within 1 s of SIGTERM and was killed"


async def test_leaving_ends_a_grandchild_that_ignores_sigterm(tmp_path: Path) -> None:
    async with Children(grace_s=1) as children:
        child = await _spawn(children, tmp_path, WITH_GRANDCHILD + "time.sleep(99)")
        grandchild = await _grandchild(child.log_path)
        assert guardian.is_running(grandchild)
    assert not guardian.is_running(grandchild)


async def test_what_a_child_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    async with Children(grace_s=1) as children:
        child = await _spawn(children, tmp_path, WITH_GRANDCHILD)
        await children.wait(child)
        assert not guardian.is_running(await _grandchild(child.log_path))


async def test_kill_does_not_ask(tmp_path: Path) -> None:
    async with Children(grace_s=99) as children:
        child = await _spawn(children, tmp_path, STUBBORN)
        await _until(lambda: "ready" in child.log_path.read_text(), "the child to start")
        children.kill()
        assert await children.wait(child) == -signal.SIGKILL


async def test_an_error_in_the_body_ends_every_child(tmp_path: Path) -> None:
    spawned = list[Child]()

    async def fail() -> None:
        async with Children(grace_s=1) as children:
            spawned.append(await _spawn(children, tmp_path, "import time; time.sleep(99)"))
            raise RuntimeError("body")

    with pytest.raises(RuntimeError, match="body"):
        await fail()
    assert spawned[0].process.returncode == -signal.SIGTERM


async def test_the_scratch_directory_is_private_short_and_gone_in_the_end(tmp_path: Path) -> None:
    async with Children(grace_s=1) as children:
        scratch = children.scratch
        assert scratch.stat().st_mode & 0o777 == 0o700
        assert len(str(scratch)) < 30
        (scratch / "socket").touch()
    assert not scratch.exists()


async def test_children_do_not_hold_the_guardians_pipe(tmp_path: Path) -> None:
    async with Children(grace_s=1) as children:
        child = await _spawn(children, tmp_path, "import os; print(sorted(os.listdir('/proc/self/fd')))")
        await children.wait(child)
    assert child.log_path.read_text() == "['0', '1', '2', '3']\n"  # 3 is the listing itself


def _guardian(mark: str, scratch: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", guardian.__file__, mark, str(scratch)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _sleeper(env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(99)"], env=env, start_new_session=True
    )


def test_the_guardian_ends_groups_it_was_told_of_and_processes_with_the_mark(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    told, marked = _sleeper({}), _sleeper({guardian.MARK_VARIABLE: "this run"})
    taken_back, stranger = _sleeper({}), _sleeper({guardian.MARK_VARIABLE: "another run"})
    with _guardian("this run", scratch) as process:
        process.communicate(f"{told.pid}\n{taken_back.pid}\n-{taken_back.pid}\n".encode(), timeout=PATIENCE_S)
        assert (told.wait(PATIENCE_S), marked.wait(PATIENCE_S)) == (-signal.SIGTERM, -signal.SIGTERM)
    assert taken_back.poll() is None
    assert stranger.poll() is None
    assert not scratch.exists()
    for other in (taken_back, stranger):
        other.kill()
        other.wait(PATIENCE_S)


def test_the_guardian_outlives_the_signals_that_end_its_launcher(tmp_path: Path) -> None:
    child = _sleeper({})
    with _guardian("mark", tmp_path / "none") as process:
        assert process.stdin is not None
        process.stdin.write(f"{child.pid}\n".encode())
        process.stdin.flush()
        # It ignores signals from its first statements on; SigIgn in /proc shows when.
        deadline, ignored = time.monotonic() + PATIENCE_S, 1 << (signal.SIGTERM - 1)
        while not int(_status(process.pid, "SigIgn"), 16) & ignored:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        process.stdin.close()
        assert child.wait(PATIENCE_S) == -signal.SIGTERM


def _status(pid: int, field: str) -> str:
    return next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(field)
    ).split()[1]


def test_a_process_that_has_ended_is_not_running() -> None:
    child = _sleeper({})
    assert guardian.is_running(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not guardian.is_running(child.pid), "a zombie counts as ended"
    child.wait(PATIENCE_S)
    assert not guardian.is_running(child.pid)
