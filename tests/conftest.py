"""For every test: a call that would block the event loop fails it. For those that ask: addresses and a context."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq.asyncio
from blockbuster import blockbuster_ctx

from tsd.transport.addresses import Addresses

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the hub of the world
os.environ["OMP_NUM_THREADS"] = "1"  # tests run on every core already, and torch's threads spin while they wait

LONG_S = 60
"""The limit of a test that says nothing of its own: see `timeout` in pyproject.toml."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out tests with a limit of their own above a minute")
    parser.addoption("--cluster", action="store_true", help="tests of Ray clusters too: minutes each, all of a machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --fast whatever takes long goes: such a test says so by a limit of its own. Clusters want --cluster."""
    left = [item for item in items if not config.getoption("--cluster") and item.path.name == "test_cluster.py"]
    if config.getoption("--fast"):
        left += [item for item in items if any(mark.args[0] > LONG_S for mark in item.iter_markers("timeout"))]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


EXEMPT = {
    "test_launch": "the supervisor starts processes and reads small files of its run while nothing waits for its loop",
    "test_processes": "as above",
    "test_clock": "as above",
    "test_gym": "a scorer's answer is waited for on the loop, a bounded time",
    "test_dashboard": "the board reads a small local file twice a second",
    "test_report": "example trees are searched in a loop of their own, in which nothing else waits"
    " (transformers' progress bars write when they are collected, wherever that is)",
    "test_serve": "the openai client reads files of its package on the loop",
    "test_torch_engine": "tests load models beside the engine; the engine itself works in a thread",
    "test_vllm_engine": "vLLM reads files on the loop while it starts",
}
"""Modules whose loop may block, and why."""


@pytest.fixture(autouse=True)
def never_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.module.__name__.rpartition(".")[2] in EXEMPT:
        yield
    else:
        with blockbuster_ctx() as blockbuster:
            # Its thread is idle by then, and gone in no time.
            blockbuster.functions["threading.Lock.acquire"].can_block_in(
                "tsd/engine/torch_engine.py", {"__aenter__", "__aexit__"}
            )
            yield


@pytest.fixture
def addresses(tmp_path: Path) -> Addresses:
    return Addresses(tmp_path)


@pytest.fixture
def context() -> Iterator[zmq.asyncio.Context]:
    with zmq.asyncio.Context() as context:
        yield context
