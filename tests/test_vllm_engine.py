"""What only the vLLM engine can get wrong: its processes, and a vLLM that is not there."""

import asyncio
import gc
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.engines import CASES, make_engine, make_model
from tsd.errors import EngineError

pytestmark = pytest.mark.filterwarnings(
    # Importing vLLM touches names that torch 2.13 deprecates.
    r"ignore:`torch\.jit\.script_method` is deprecated:DeprecationWarning",
    r"ignore:`torch\.distributed\.reduce_op` is deprecated:FutureWarning",
    # vLLM's shutdown closes its sockets, and leaves their context to the garbage collector.
    "ignore:Unclosed context:ResourceWarning",
)


def vllm_processes() -> list[psutil.Process]:
    """Ours, without Python's own tracker of shared memory, which lives as long as we do."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if not any("resource_tracker" in word for word in child.cmdline())]


@pytest.mark.vllm
@pytest.mark.timeout(300)
async def test_a_dead_engine_says_so_in_one_line_and_leaves_no_process(tmp_path: Path) -> None:
    make_model(CASES[0], tmp_path)
    before = set(vllm_processes())
    async with make_engine("vllm", CASES[0], tmp_path) as engine:
        ours = set(vllm_processes()) - before
        assert ours
        await engine.expand((7, 8, 9), 4, 8)
        for process in ours:
            process.kill()
        for _ in range(2):
            with pytest.raises(EngineError, match=r"^vLLM does not generate: [^\n]+$"):
                await engine.sample((7, 8, 9), 4, 200)
    assert set(vllm_processes()) <= before
    vars(engine).clear()
    gc.collect()


async def test_a_missing_vllm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(CASES[0], tmp_path)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(EngineError, match=r"^vLLM is not installed .*: pip install"):
        async with make_engine("vllm", CASES[0], tmp_path):
            raise AssertionError("it has started")


@pytest.mark.vllm
@pytest.mark.timeout(300)
async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    make_model(CASES[0], tmp_path)
    before = set(vllm_processes())
    start = asyncio.create_task(make_engine("vllm", CASES[0], tmp_path).__aenter__())
    while set(vllm_processes()) <= before:  # noqa: ASYNC110  a process that starts sets no event
        await asyncio.sleep(0.1)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert set(vllm_processes()) <= before
    gc.collect()


async def test_an_architecture_it_does_not_serve_is_named(tmp_path: Path) -> None:
    make_model(CASES[0], tmp_path)
    config = (tmp_path / "config.json").read_text().replace("Qwen2ForCausalLM", "OtherForCausalLM")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"is a OtherForCausalLM; tsd's vLLM engine serves Qwen2ForCausalLM"):
        async with make_engine("vllm", CASES[0], tmp_path):
            raise AssertionError("it has started")
