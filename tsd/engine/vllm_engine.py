"""The vLLM engine: one `AsyncLLM` behind the `Engine` protocol, on a GPU or with vLLM's CPU build.

A call is one request of vLLM. Knows nothing about trees or text; `vllm_model` puts values into vLLM's logprobs.
"""

import asyncio
import itertools
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from tsd.config import EngineConfig, HeadDtype
from tsd.engine.stops import STOPS
from tsd.engine.vllm_plugin import VALUE_SHIFT
from tsd.engine.vllm_start import Running, engine_errors, import_vllm, set_scratch, start_engine, stop
from tsd.errors import EngineError, WeightsError
from tsd.transport.tensor_file import TensorFile, layout_of
from tsd.types import Expansion, Finish, Step, WeightUpdate

NEVER = -1e4
"""Bias of an excluded token's logit. The logprobs that come back are those before it."""


class VllmEngine:
    """An `Engine`. Use as an async context manager."""

    def __init__(
        self,
        directory: Path,
        config: EngineConfig,
        *,
        temperature: float,
        dtype: str,
        seed: int,
        head_dtype: HeadDtype = "float32",
        top_p: float = 1.0,
        shares_gpu: bool = False,
        num_gpus: int = 1,
        stops: tuple[str, str] = STOPS,
    ) -> None:
        self.directory, self.config = directory, config
        self.temperature, self.dtype, self.seed, self.stops = temperature, dtype, seed, stops
        self.head_dtype: HeadDtype = head_dtype
        self.top_p = top_p
        self.shares_gpu, self.num_gpus = shares_gpu, num_gpus
        self.version = 0
        self._serial = itertools.count()
        self._loading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        # In a call of its own: vLLM keeps the frames of an import that failed, and with them what the thread returned.
        await asyncio.to_thread(import_vllm, self.config.num_threads)
        async with AsyncExitStack() as stack:
            scratch = TemporaryDirectory(prefix="tsd-vllm-")
            stack.push_async_callback(asyncio.to_thread, scratch.cleanup)
            set_scratch(scratch.name)
            self._running = await self._start()
            stack.push_async_callback(stop, self._running.llm)
            # A model that vLLM's kernels cannot run fails at its first request only: better now than in a search.
            await self.sample((0,), 1, 1)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def expand(
        self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
    ) -> Expansion:
        if excluded:
            steps = await asyncio.gather(*(self._without(state, max_tokens, excluded) for _ in range(num_samples)))
            return Expansion(steps[0].values[0], tuple(steps))
        sampled = await self._generate(state, num_samples, max_tokens, self.stops)
        return Expansion(sampled[0].values[0], sampled)

    async def _without(self, state: Sequence[int], max_tokens: int, excluded: Sequence[int]) -> Step:
        """One sample that does not begin with those tokens: a request for its first token, and one for the others.

        vLLM's biases hold for every token of a request; the second finds the first one's keys and values in the cache.
        """
        (first,) = await self._generate(state, 1, 1, self.stops, excluded)
        if first.finish != "length" or max_tokens == 1:
            return first
        (rest,) = await self._generate((*state, *first.tokens), 1, max_tokens - 1, self.stops)
        logprobs = array("f", [*first.logprobs, *rest.logprobs])
        values = array("f", [*first.values, *rest.values])
        return Step(first.tokens + rest.tokens, logprobs, values, rest.finish, first.version)

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        return await self._generate(state, num_samples, max_tokens, self.stops[1:])

    async def load(self, weights: WeightUpdate) -> float:
        self._check(weights)
        applying = asyncio.create_task(self._apply(weights))
        try:
            return await asyncio.shield(applying)
        except asyncio.CancelledError:
            # Weights and version change together, or not at all.
            await asyncio.wait({applying})
            raise

    async def _start(self) -> Running:
        begin = partial(
            start_engine,
            self.directory,
            self.config,
            temperature=self.temperature,
            dtype=self.dtype,
            head_dtype=self.head_dtype,
            seed=self.seed,
            shares_gpu=self.shares_gpu,
            num_gpus=self.num_gpus,
            stops=self.stops,
        )
        starting = asyncio.create_task(asyncio.to_thread(begin))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A thread cannot be stopped: the start is seen through, so that its processes can be ended.
            await asyncio.wait({starting})
            if starting.exception() is None:
                await stop(starting.result().llm)
            raise

    async def _generate(
        self,
        state: Sequence[int],
        num_samples: int,
        max_tokens: int,
        stops: Sequence[str],
        excluded: Sequence[int] = (),
    ) -> tuple[Step, ...]:
        """One request of vLLM, which aborts it when this is cancelled."""
        limit = self.config.max_model_tokens
        if not 0 < len(state) < limit:
            raise EngineError(
                f"expected 1 to {limit - 1} state tokens, found {len(state)}; see engine.max_model_tokens"
            )
        version, name = self.version, f"tsd-{next(self._serial)}"
        prompt = {"type": "token", "prompt_token_ids": list(state)}
        params = self._params(num_samples, min(max_tokens, limit - len(state)), stops, excluded)
        with engine_errors("vLLM does not generate"):
            async with aclosing(self._running.llm.generate(prompt, params, name)) as outputs:
                async for output in outputs:
                    samples = output.outputs
        return tuple(self._step(sample, version) for sample in samples)

    def _params(self, num_samples: int, max_tokens: int, stops: Sequence[str], excluded: Sequence[int]) -> Any:
        """Sampling at temperature 1: the engine's own temperature is in the logits, see `vllm_model`."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        running = self._running
        texts = [stop for stop in stops if stop not in running.stop_ids]
        ids = [running.stop_ids[stop] for stop in stops if stop in running.stop_ids]
        return SamplingParams(
            n=num_samples,
            max_tokens=max_tokens,
            temperature=1.0,
            top_p=self.top_p,
            stop=texts,
            include_stop_str_in_output=True,
            stop_token_ids=[*ids, *running.eos_ids],
            ignore_eos=True,  # EOS is among the stop tokens: the tokenizer's, whatever other files call so.
            detokenize=bool(texts),
            logprob_token_ids=[running.value_column],  # beside the sampled token's; `logprobs` would cost a top-k
            logit_bias=dict.fromkeys(excluded, NEVER) or None,
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _step(self, sample: Any, version: int) -> Step:
        """Every position of the flat logprobs holds two numbers: the sampled token's logprob, and V, shifted."""
        tokens, flat = tuple(sample.token_ids), sample.logprobs.logprobs
        assert len(flat) == 2 * len(tokens), "a logprob and a value for every token"
        values = array("f", (shifted + VALUE_SHIFT for shifted in flat[1::2]))
        return Step(tokens, array("f", flat[0::2]), values, self._finish(sample), version)

    def _finish(self, sample: Any) -> Finish:
        if sample.finish_reason == "length":
            return "length"
        if sample.finish_reason != "stop":
            raise EngineError(f"vLLM gave up a request: {sample.finish_reason}")
        step = self.stops[0]
        return "step" if sample.stop_reason in (step, self._running.stop_ids.get(step)) else "end"

    def _check(self, weights: WeightUpdate) -> None:
        expected, found = self._running.shapes, {name: tensor.shape for name, tensor in weights.tensors.items()}
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if wrong:
            raise WeightsError(
                f"update {weights.version} is for another model: {len(wrong)} tensors differ, e.g. {wrong[0]}"
            )

    async def _apply(self, weights: WeightUpdate) -> float:
        """Through a file in memory, which is there where the weights came over the wire; the seconds that vLLM stood
        still.

        It computes the state of requests under way anew, with the new weights.
        """
        llm = self._running.llm
        async with self._loading:
            with engine_errors("vLLM does not take new weights"):
                async with AsyncExitStack() as stack:
                    path = weights.path or await asyncio.to_thread(stack.enter_context, _in_memory(weights))
                    started = time.monotonic()
                    await llm.pause_generation(mode="keep", clear_cache=True)
                    try:
                        await llm.collective_rpc("load_tsd_weights", args=(path,))
                        self.version = weights.version
                    finally:
                        await llm.resume_generation()
                    return time.monotonic() - started


@contextmanager
def _in_memory(weights: WeightUpdate) -> Iterator[str]:
    """A safetensors file that vLLM's processes can read."""
    with TensorFile(layout_of(weights.tensors)) as file:
        for name, tensor in weights.tensors.items():
            file.tensors[name][...] = tensor
        yield file.path
