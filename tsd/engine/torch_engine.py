"""The embedded engine: decoding with torch in the generator's own process, for CPU and small models.

The event loop hands requests to one worker thread and never waits for it: each decoding step is awaited, and between
two steps the loop admits new requests, drops cancelled ones and puts new weights in the place of the old: they are laid
out beside, in another thread, while decoding goes on. Knows nothing about trees.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from tsd.config import EngineConfig, HeadDtype
from tsd.engine.decoder import Decoder
from tsd.engine.requests import Request
from tsd.engine.stops import Stops
from tsd.engine.trunk import Trunk
from tsd.errors import EngineError
from tsd.model.policy import Policy, own_device
from tsd.model.text import HfCodec
from tsd.types import Expansion, Step, WeightUpdate


class TorchEngine:
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
    ) -> None:
        self.directory, self.config = directory, config
        self.temperature, self.top_p, self.dtype, self.seed = temperature, top_p, dtype, seed
        self.head_dtype: HeadDtype = head_dtype
        self._pending: deque[tuple[Request, asyncio.Future[Request]]] = deque()
        self._running: dict[Request, asyncio.Future[Request]] = {}
        self._updates: deque[tuple[Trunk, int, asyncio.Future[float]]] = deque()
        self._loading = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stack = AsyncExitStack()

    @property
    def version(self) -> int:
        return self._decoder.version

    @property
    def cache_hits(self) -> tuple[int, int]:
        """States whose keys and values were all there, and states in all."""
        return self._decoder.num_hits, self._decoder.num_lookups

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="torch-engine"))
            self._decoder = await asyncio.get_running_loop().run_in_executor(self._thread, self._start)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            steps = group.create_task(self._run(), name="torch engine steps")
            stack.callback(steps.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def expand(
        self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
    ) -> Expansion:
        request = await self._generate(Request(tuple(state), num_samples, max_tokens, True, tuple(excluded)))
        return Expansion(request.value, tuple(request.steps))

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        request = await self._generate(Request(tuple(state), num_samples, max_tokens, stops_at_step=False))
        return tuple(request.steps)

    async def load(self, weights: WeightUpdate) -> float:
        async with self._loading:
            # Beside the steps that go on meanwhile; a thread left behind by a cancelled call changes nothing.
            trunk = await asyncio.to_thread(self._decoder.prepared, weights)
            applied: asyncio.Future[float] = asyncio.get_running_loop().create_future()
            self._updates.append((trunk, weights.version, applied))
            self._wake.set()
            return await applied

    async def _generate(self, request: Request) -> Request:
        limit = self._decoder.max_tokens
        if not 0 < len(request.state) < limit or request.num_samples > self.config.max_sequences:
            raise EngineError(
                f"expected 1 to {limit - 1} state tokens and at most {self.config.max_sequences} samples, found "
                f"{len(request.state)} and {request.num_samples}; see engine.max_model_tokens and engine.max_sequences"
            )
        done: asyncio.Future[Request] = asyncio.get_running_loop().create_future()
        self._pending.append((request, done))
        self._wake.set()
        try:
            return await done
        finally:
            request.cancelled = not request.done
            self._running.pop(request, None)

    async def _run(self) -> None:
        """Waits for requests when there are none; `_generate` and `load` wake it."""
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._thread)
        try:
            while True:
                while self._updates:
                    self._apply(*self._updates.popleft())
                self._decoder.admit(self._admissible())  # between two steps; no more than a list grows
                for request in await in_thread(self._decoder.advance):
                    self._resolve(request)
                if self._decoder.idle and not self._pending and not self._updates:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self._fail_waiting(EngineError("the torch engine has stopped"))

    def _fail_waiting(self, error: EngineError) -> None:
        """Whoever still waits gets the error."""
        for request in (*self._running.values(), *(future for _, future in self._pending)):
            if not request.done():
                request.set_exception(error)
        for *_, applied in self._updates:
            if not applied.done():
                applied.set_exception(error)

    def _admissible(self) -> list[Request]:
        """Pending requests, first come first served, as many as rows are free."""
        free, admitted = self._decoder.num_free, []
        while self._pending and self._pending[0][0].num_samples <= free:
            request, future = self._pending.popleft()
            if request.cancelled:
                continue
            free -= request.num_samples
            admitted.append(request)
            self._running[request] = future
        return admitted

    def _resolve(self, request: Request) -> None:
        future = self._running.get(request)
        if future is not None and not future.done():
            future.set_result(request)

    def _apply(self, trunk: Trunk, version: int, applied: asyncio.Future[float]) -> None:
        """Between two steps, also where the caller of `load` no longer waits."""
        started = time.monotonic()
        self._decoder.load(trunk, version)
        if not applied.done():
            applied.set_result(time.monotonic() - started)

    def _start(self) -> Decoder:
        torch.set_num_threads(self.config.num_threads)
        policy, codec = Policy.load(self.directory, self.dtype).to(own_device()), HfCodec(self.directory)
        policy.head_dtype = self.head_dtype
        stops = Stops(codec.encode_text, codec.decode, codec.eos_ids())
        return Decoder(
            policy,
            stops.finish,
            temperature=self.temperature,
            max_samples=self.config.max_sequences,
            max_tokens=self.config.max_model_tokens,
            cache_bytes=self.config.cache_mb * 2**20,
            seed=self.seed,
            top_p=self.top_p,
        )
