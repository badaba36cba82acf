"""The way of new weights through the host, stage by stage, at a real model's size: now, and at an earlier commit.

`tools/compare_sync --shape 1.5b` is the command. Weights are synthetic. The trainer's are float32 and go to the host as
bfloat16; what changed goes over a socket of this machine, and ends as a file that vLLM's processes read. Trainer and
generator share a process; each commit has one of its own, one after the other.
"""

import asyncio
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from statistics import median

import numpy as np
import torch
import zmq.asyncio
from transformers import Qwen2Config, Qwen2ForCausalLM

from tsd.engine.vllm_engine import _in_memory
from tsd.model.files import HEAD_PREFIX
from tsd.model.policy import Policy, weight_update
from tsd.transport.addresses import Addresses
from tsd.transport.hello import Hello
from tsd.transport.weights import WeightPublisher, WeightSubscriber
from tsd.types import WeightUpdate

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {
    "1.5b": (1536, 28, 12, 2, 8960, 151_936),
    "0.5b": (896, 24, 14, 2, 4864, 151_936),
    "tiny": (64, 2, 4, 2, 128, 500),
}
"""Hidden size, layers, heads, key-value heads, intermediate size, vocabulary: Qwen2.5's two, and one for a test."""
SHARES = (0.02, 0.3)
"""How much of the weights an update changes."""
STAGES = {
    "snapshot": "trainer: float32 to bfloat16",
    "encode": "trainer: checksums, what changed",
    "wire": "a socket of this machine",
    "decode": "generator: apply and check",
    "hand over": "generator: a file for vLLM",
}
WAYS = ("before", "now")
HELLO = Hello(run="compare_sync", tokenizer="")
DTYPE = "bfloat16"
TILE = 2**22 + 1
"""How many weights are random; a large tensor repeats them."""
TIMEOUT_S = 3600.0
GB = 1e9

Bits = dict[str, np.ndarray]
"""Weights as bfloat16's bits."""
Row = dict[str, float]
Rows = dict[tuple[str, float], list[Row]]


def compare(shape: str, num_rounds: int, commit: str) -> str:
    """Runs both commits; a table of what they took."""
    rows: Rows = defaultdict(list)
    with tempfile.TemporaryDirectory() as earlier:
        command = ["git", "-C", str(ROOT), "archive", commit, "tsd"]
        sources = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        with tarfile.open(fileobj=io.BytesIO(sources)) as archive:
            archive.extractall(earlier, filter="data")
        for way, path in (("now", str(ROOT)), ("before", earlier)):
            command = [sys.executable, __file__, shape, str(num_rounds)]
            environment = {**os.environ, "PYTHONPATH": path}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            for row in map(json.loads, done.stdout.splitlines()):
                rows[way, row["share"]].append(row)
    return table(shape, commit, rows)


def table(shape: str, commit: str, rows: Rows) -> str:
    """Medians of each stage, and of all together; the most memory that a process held."""

    def line(title: str, value: Callable[[Row], float], *, has_ratio: bool = True) -> str:
        cells = ""
        for share in SHARES:
            before, now = (median(map(value, rows[way, share])) for way in WAYS)
            ratio = f"{before / now:.1f}x" if has_ratio and now >= 0.005 else ""
            cells += f"{before:>10.2f}{now:>8.2f}{ratio:>8}"
        return f"{title:<34}{cells}".rstrip()

    first = rows["now", SHARES[0]][0]
    lines = [
        f"{shape}: {first['elements'] / 1e9:.3f} billion weights, {first['dense'] / GB:.2f} GB; seconds, medians of "
        f"{len(rows['now', SHARES[0]])}; before is commit {commit}",
        f"{'changed':<34}" + "".join(f"{f'{share:.0%}':>26}" for share in SHARES),
        f"{'':<34}" + f"{'before':>10}{'now':>8}{'':>8}" * len(SHARES),
        *(line(title, itemgetter(stage)) for stage, title in STAGES.items()),
        line("all", lambda row: sum(row[stage] for stage in STAGES)),
        line("all, of CPU time", lambda row: row["cpu"]),
        line("GB sent", lambda row: row["sent"] / GB, has_ratio=False),
        line("GB held at most", lambda row: row["peak"] / GB, has_ratio=False),
    ]
    return "\n".join(one.rstrip() for one in lines)


async def measure(shape: str, num_rounds: int) -> None:
    """Prints a row for every new version."""
    weights, rng = make_weights(shape), np.random.default_rng(0)
    with ExitStack() as stack:
        context = stack.enter_context(zmq.asyncio.Context())
        address = Addresses(Path(stack.enter_context(tempfile.TemporaryDirectory()))).snapshots
        publisher = stack.enter_context(WeightPublisher(context, address, HELLO, "a"))
        subscriber = stack.enter_context(WeightSubscriber(context, address, HELLO, ask_again_s=TIMEOUT_S))
        serving = asyncio.create_task(publisher.serve())
        await publisher.publish(WeightUpdate(0, weights))
        await subscriber.fetch(TIMEOUT_S)
        for version, share in enumerate([share for share in SHARES for _ in range(num_rounds)], start=1):
            row, weights = await sync(version, weights, rng.random(TILE) < share, publisher, subscriber)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            elements = sum(array.size for array in weights.values())
            print(json.dumps(row | {"share": share, "peak": peak, "elements": elements}), flush=True)
        serving.cancel()


async def sync(
    version: int, before: Bits, turned: np.ndarray, publisher: WeightPublisher, subscriber: WeightSubscriber
) -> tuple[Row, Bits]:
    """One version from the trainer to the engine's file: seconds of each stage, and bytes; and its weights."""
    update, snapshot_s, cpu_s = WeightUpdate(version, {}), 0.0, 0.0
    room = np.empty(max(array.size for array in before.values()), np.float32)  # one tensor of the trainer's at a time
    for name, bits in before.items():
        trained = {name: torch.from_numpy(changed(bits, turned, room))}
        started, cpu_started = time.perf_counter(), time.process_time()
        update.tensors.update(weight_update(version, trained, DTYPE).tensors)
        snapshot_s, cpu_s = snapshot_s + time.perf_counter() - started, cpu_s + time.process_time() - cpu_started
    del room
    started, cpu_started = time.perf_counter(), time.process_time()
    await publisher.publish(update)
    encode_s = time.perf_counter() - started
    fetched = await subscriber.fetch(TIMEOUT_S)
    started = time.perf_counter()
    if not getattr(fetched.update, "path", ""):  # the earlier commit has none
        with _in_memory(fetched.update):
            pass
    row = {
        "snapshot": snapshot_s,
        "encode": encode_s,
        "wire": fetched.wire_s,
        "decode": fetched.decode_s,
        "hand over": time.perf_counter() - started,
        "cpu": cpu_s + time.process_time() - cpu_started,
        "sent": fetched.num_bytes,
        "dense": sum(array.nbytes for array in update.tensors.values()),
    }
    return row, update.tensors


def make_weights(model: str) -> Bits:
    """Random ones, the same again and again, by the names of a Qwen2 of that shape, without the small value head."""
    hidden, layers, heads, kv_heads, intermediate, vocabulary = SHAPES[model]
    config = Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        named = Policy(Qwen2ForCausalLM(config)).named_tensors()
    tile = torch.randn(TILE, generator=torch.Generator().manual_seed(0)).bfloat16().view(torch.uint16).numpy()
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items() if not name.startswith(HEAD_PREFIX)}
    return {name: np.resize(tile, shape) for name, shape in shapes.items()}


def changed(bits: np.ndarray, turned: np.ndarray, room: np.ndarray) -> np.ndarray:
    """In float32, with the last bit of bfloat16 turned at places that are drawn for the first and then repeated."""
    wide = room[: bits.size].view(np.uint32)
    np.copyto(wide, bits.reshape(-1))
    for start in range(0, bits.size, TILE):
        part = wide[start : start + TILE]
        part ^= turned[: part.size]
    wide <<= 16
    return wide.view(np.float32).reshape(bits.shape)


def main(arguments: Sequence[str]) -> None:
    shape, num_rounds = arguments
    torch.set_num_threads(1)
    asyncio.run(measure(shape, int(num_rounds)))


if __name__ == "__main__":
    main(sys.argv[1:])
