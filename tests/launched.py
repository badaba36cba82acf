"""What tests of whole runs share: a launcher in a process of its own, and scripts in place of a run's processes."""

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil

PATIENCE_S = 15.0
GONE_AFTER_S = 20.0

FAKE = r'''
"""Stands in for evaluate, trainer and generator; files in the run directory tell it what to do."""
import json, os, signal, subprocess, sys, time
from pathlib import Path

role, run_dir, *rest = sys.argv[1:]
run_dir = Path(run_dir)
options = dict(zip(rest[::2], rest[1::2]))
index = options.get("--rank") or options.get("--index")
name = role if index is None else f"{role}-{index}"
number = len(list(run_dir.glob(f"started-{name}-*")))

def checkpoint(update, complete):
    directory = run_dir / "checkpoints" / f"update-{update:06d}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "state.json").write_text(json.dumps({"update": update, "complete": complete}))

def evaluate():
    if (run_dir / "evaluation-hangs").exists():
        time.sleep(99)
    (run_dir / (options["--when"] + ".json")).write_text(json.dumps({"mean_at_k": 0.25, "k": 16}))

def train():
    crashes = run_dir / "trainer-crashes"
    if crashes.exists() and name == "trainer-0" and number < int(crashes.read_text()):
        checkpoint(number + 1, False)
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, lambda *_: (checkpoint(3, False), sys.exit(0)))
    if (run_dir / "trainer-fails").exists():
        print("error: out of memory", flush=True)
        sys.exit(2)
    while not (run_dir / "release").exists():
        time.sleep(0.02)
    if name == "trainer-0":
        with (run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(UPDATE | {"time_s": time.time()}) + "\n")
        checkpoint(5, True)

def generate():
    own = run_dir / f"crashes-{name}"
    if number < int((own if own.exists() else run_dir / "crashes").read_text()):
        sys.exit(f"error: crash {number}")
    if number < int((run_dir / "freezes").read_text() if (run_dir / "freezes").exists() else 0):
        beats = run_dir / "alive" / name
        beats.parent.mkdir(exist_ok=True)
        for beat in range(3):
            beats.touch()
            time.sleep(0.02)
        time.sleep(99)
    grandchild = subprocess.Popen([sys.executable, "-S", "-c", STUBBORN], stdout=subprocess.PIPE)
    grandchild.stdout.readline()
    if (run_dir / "generators-release").exists():
        (run_dir / "release").touch()
    (run_dir / f"searching-{name}").touch()
    time.sleep(99)

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(99)"
UPDATE = {"kind": "update", "update": 5, "num_updates": 5, "version": 0, "loss": 0, "policy_loss": 0, "value_loss": 0,
          "kl": 0, "entropy": 0, "grad_norm": 0, "ratio_mean": 1, "logprob_gap": None, "reward_mean": 0,
          "exact_share": 0, "age_mean": 0, "num_trajectories": 160, "generated_tokens": 9000, "num_refused": {},
          "tokens_per_s": 1, "wait_s": 0, "elapsed_s": 1}
environment = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MASTER_PORT")}
(run_dir / f"started-{name}-{number}").write_text(json.dumps({"argv": sys.argv[1:], "environment": environment}))
{"evaluate": evaluate, "trainer": train, "generator": generate}[role]()
'''


class Launched:
    """A launcher and everything it started, found by a variable they all inherit."""

    def __init__(self, command: Sequence[str]) -> None:
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "TSD_TEST_MARK": self._mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def alive(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            marked = process.environ().get("TSD_TEST_MARK") == self._mark
            return bool(marked and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False


@contextmanager
def launched(command: Sequence[str]) -> Iterator[Launched]:
    """Whatever happens in the test, nothing of the launcher is left after it."""
    launched = Launched(command)
    try:
        yield launched
    finally:
        for process in launched.alive():
            process.kill()
        launched.process.communicate(timeout=PATIENCE_S)


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
