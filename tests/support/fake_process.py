"""Stands in for evaluate, trainer and generator of a run; files in the run directory tell it what to do.

A program: `python fake_process.py ROLE RUN_DIR --OPTION VALUE ...`, with `hang` for an evaluation that never ends. It
imports the standard library alone, and starts in no time.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(99)"
UPDATE = {
    **{"kind": "update", "update": 5, "num_updates": 5, "version": 0, "loss": 0, "policy_loss": 0, "value_loss": 0},
    **{"kl": 0, "entropy": 0, "grad_norm": 0, "ratio_mean": 1, "logprob_gap": None, "reward_mean": 0},
    **{"exact_share": 0, "age_mean": 0, "num_trajectories": 160, "generated_tokens": 9000, "num_refused": {}},
    **{"tokens_per_s": 1, "wait_s": 0, "elapsed_s": 1},
}


@dataclass(frozen=True)
class Fake:
    """One life of one process."""

    run_dir: Path
    name: str
    number: int
    """Lives of that name before this one."""

    def is_told(self, file: str) -> bool:
        return (self.run_dir / file).exists()

    def count(self, file: str) -> int:
        """How many lives are told to do something."""
        return int((self.run_dir / file).read_text()) if self.is_told(file) else 0

    def checkpoint(self, update: int, complete: bool) -> None:
        directory = self.run_dir / "checkpoints" / f"update-{update:06d}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "state.json").write_text(json.dumps({"update": update, "complete": complete}))

    def validate(self, checkpoint: Path) -> None:
        """Lets the trainers finish, which shows that they were there meanwhile."""
        (self.run_dir / "release").touch()
        if self.is_told("validation-fails"):
            sys.exit(int((self.run_dir / "validation-fails").read_text()))
        (checkpoint / "waiting-for-validation").unlink()

    def evaluate(self, when: str) -> None:
        if self.is_told("evaluation-freezes"):
            self.beat_and_freeze(f"evaluate-{when}")
        (self.run_dir / f"{when}.json").write_text(json.dumps({"mean_at_k": 0.25, "k": 16}))

    def train(self) -> None:
        if self.name == "trainer-0" and self.number < self.count("trainer-crashes"):
            self.checkpoint(self.number + 1, False)
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        if self.is_told("trainer-fails"):
            print("error: out of memory", flush=True)
            sys.exit(2)
        while not self.is_told("release"):
            time.sleep(0.02)
        if self.name == "trainer-0":
            with (self.run_dir / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(UPDATE | {"time_s": time.time()}) + "\n")
            self.checkpoint(5, True)

    def stop(self) -> None:
        self.checkpoint(3, False)
        sys.exit(0)

    def generate(self) -> None:
        own = f"crashes-{self.name}"
        if self.number < self.count(own if self.is_told(own) else "crashes"):
            sys.exit(f"error: crash {self.number}")
        if self.number < self.count("freezes"):
            self.beat_and_freeze(self.name)
        grandchild = subprocess.Popen([sys.executable, "-S", "-c", STUBBORN], stdout=subprocess.PIPE)
        assert grandchild.stdout is not None
        grandchild.stdout.readline()
        if self.is_told("generators-release"):
            (self.run_dir / "release").touch()
        (self.run_dir / f"searching-{self.name}").touch()
        time.sleep(99)

    def beat_and_freeze(self, name: str) -> None:
        beats = self.run_dir / "alive" / name
        beats.parent.mkdir(exist_ok=True)
        for _ in range(3):
            beats.touch()
            time.sleep(0.02)
        time.sleep(99)


def main() -> None:
    role, directory, *rest = sys.argv[1:]
    run_dir, options = Path(directory), dict(zip(rest[::2], rest[1::2], strict=False))
    index = options.get("--rank") or options.get("--index")
    hangs = role == "hang"
    role = "evaluate" if hangs else role
    name = role if index is None else f"{role}-{index}"
    fake = Fake(run_dir, name, len(list(run_dir.glob(f"started-{name}-*"))))
    environment = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MASTER_PORT")}
    said = json.dumps({"argv": sys.argv[1:], "environment": environment})
    (run_dir / f"started-{name}-{fake.number}").write_text(said)
    if hangs:
        time.sleep(99)
    elif options.get("--when") == "during":
        fake.validate(Path(options["--checkpoint"]))
    elif role == "evaluate":
        fake.evaluate(options["--when"])
    elif role == "trainer":
        fake.train()
    else:
        fake.generate()


if __name__ == "__main__":
    main()
