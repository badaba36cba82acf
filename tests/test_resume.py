"""A trainer killed at any moment and started again trains as one that was never killed: bit for bit.

The test is the generators: it sends one fixed list of trajectories, from its beginning in every life of the trainer, as
a generator that keeps what was not acknowledged would.
"""

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
import zmq.asyncio

from tests.support.launching import until
from tests.support.trajectories import make_trajectory
from tsd.config import load_config, save_config
from tsd.learn.checkpoint import latest_checkpoint, load_state
from tsd.observe.metrics import MetricsReader, UpdateRow
from tsd.transport.addresses import Addresses
from tsd.transport.codec import encode
from tsd.types import NO_PARENT, Grade, Trajectory

NUM_UPDATES, BATCH = 9, 4
SETTINGS = [
    f"train.num_updates={NUM_UPDATES}",
    f"train.batch_size={BATCH}",
    "train.checkpoint_every=3",
    "train.publish_every=2",
    "train.warmup_updates=2",
    "train.decay=cosine",
    "train.time_limit_s=0",
    "train.max_staleness=2",
]
TIMES = {"time_s", "wait_s", "elapsed_s", "tokens_per_s"}


def trajectory(serial: int) -> Trajectory:
    """A tree of five steps; every seventh is older than the trainer takes once it has published three times."""
    rng = np.random.default_rng(serial)
    lengths = rng.integers(2, 9, 5).tolist()
    version = 0 if serial % 7 == 6 else serial // (2 * BATCH)
    return make_trajectory(
        serial,
        lengths,
        [NO_PARENT, NO_PARENT, 0, 0, 2],
        versions=np.full(sum(lengths), version, np.int32),
        grade=Grade(float(rng.uniform(-1, 1)), False, True),
    )


def rows(run_dir: Path) -> list[UpdateRow]:
    return [row for row in MetricsReader(run_dir).read() if isinstance(row, UpdateRow)]


async def life(run_dir: Path, sockets: Path, kill_after: int | None) -> None:
    """One trainer process, killed once it has said that it made that update; None lets it finish."""
    before = len(await asyncio.to_thread(rows, run_dir))
    trainer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tsd.trainer", str(run_dir), "--rank", "0", "--world", "1", "--sockets", str(sockets)),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    async def feed(wire: zmq.asyncio.Socket) -> None:
        for serial in range(2 * NUM_UPDATES * BATCH):
            await wire.send(encode(trajectory(serial)))

    try:
        with zmq.asyncio.Context() as context, context.socket(zmq.PUSH) as wire:
            wire.linger, wire.sndhwm = 0, 8
            wire.connect(Addresses(sockets).trajectories)
            feeding = asyncio.create_task(feed(wire))
            if kill_after is None:
                assert await asyncio.wait_for(trainer.wait(), 60) == 0
            else:

                def there() -> bool:
                    return any(row.update == kill_after for row in rows(run_dir)[before:])

                await asyncio.to_thread(until, there, f"update {kill_after}", 60)
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
    finally:
        if trainer.returncode is None:
            trainer.kill()
        await trainer.wait()


def learned(row: UpdateRow) -> dict[str, object]:
    """What must be the same, whatever the hour; how many came twice is not."""
    said = {name: value for name, value in msgspec.to_builtins(row).items() if name not in TIMES}
    del said["num_dropped"]
    return said


@pytest.mark.timeout(200)
def test_a_trainer_killed_and_resumed_is_one_that_was_never_killed(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for run_dir, kills in ((whole, [None]), (torn, [2, 5, 7, None])):
        sockets = tmp_path / f"{run_dir.name}-sockets"
        run_dir.mkdir()
        sockets.mkdir()
        save_config(load_config(None, SETTINGS), run_dir / "config.toml")
        for kill_after in kills:
            asyncio.run(life(run_dir, sockets, kill_after))
    expected = {row.update: learned(row) for row in rows(whole)}
    assert sorted(expected) == list(range(1, NUM_UPDATES + 1))
    assert expected[NUM_UPDATES]["num_refused"] == {"stale": 2}
    found = [(row.update, learned(row)) for row in rows(torn)]
    assert len(found) > NUM_UPDATES, "updates after the last checkpoint are made again"
    for update, row in found:
        assert row == expected[update], f"update {update}"
    ends = [latest_checkpoint(run_dir) for run_dir in (whole, torn)]
    assert ends[0] is not None
    assert ends[1] is not None
    for name in ("model.safetensors", "value_head.safetensors"):
        assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes()
    states = [load_state(end) for end in ends if end]
    assert states[0].consumed == states[1].consumed
    assert states[0].positions == states[1].positions
    assert rows(torn)[-1].num_dropped["duplicate"] > 0
