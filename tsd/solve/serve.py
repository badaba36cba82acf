"""`tsd serve`: an OpenAI-compatible endpoint on this machine's loopback, whose answers come from search.

    POST /v1/chat/completions    the last message is a problem, as `tsd solve` takes it
    GET  /v1/models              the one model
    GET  /v1/trees/ID            the tree that an answer came from, as `tsd solve --tree` writes it

Each request searches a tree of its own, `search.trees` of them at a time; the others wait. Its `max_completion_tokens`
is the tree's budget. How steps are sampled is the search's to say: a request's temperature, top_p and stop are not
looked at. Imports starlette and uvicorn, the extra tsd[serve], only where it is asked for.
"""

import asyncio
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from tsd.errors import EngineError, TsdError, leaves
from tsd.search import Tree, Way
from tsd.solve.solve import Solution, Solver
from tsd.types import Problem

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = "127.0.0.1"
NUM_TREES = 1_000
"""The last trees are kept, to be asked for."""
NUM_WAITING = 10_000
"""Requests at once, those that wait included; one more is told to come again."""
CLIENT_LEFT = 499
"""A status that nobody gets to see."""
GRACE_S = 5
"""For answers under way, once the server is told to stop."""
Tokens = Annotated[int, msgspec.Meta(ge=1)]
T = TypeVar("T")


class Text(msgspec.Struct, frozen=True):
    """A part of a message."""

    text: str


class Message(msgspec.Struct, frozen=True):
    """What was said; the last message is the problem."""

    content: str | list[Text]

    @property
    def text(self) -> str:
        """All of it."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Ask(msgspec.Struct, frozen=True):
    """A request; what else is in it is not looked at."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    model: str | None = None
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    """The older name for the same."""
    n: Literal[1] | None = None
    stream: bool | None = None


@dataclass(slots=True)
class Server:
    """One model, and the trees that it was last asked for."""

    solver: Solver
    dead: "asyncio.Future[EngineError]" = field(default_factory=asyncio.Future)
    """The engine's last words, once it has died."""
    num_waiting: int = 0
    _trees: OrderedDict[str, Tree] = field(default_factory=OrderedDict)
    _room: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._room = asyncio.Semaphore(self.solver.config.search.trees)

    async def complete(self, request: "Request") -> "Response":
        """An answer, or one line about what is wrong with the question."""
        ask, model = msgspec.json.decode(await request.body(), type=Ask), self.solver.config.model.path
        if ask.model not in (None, "", model, model.partition("@")[0]):  # of a hub's name without its commit, too
            return _refusal(404, f"model: expected {model}, the one that is served, found {ask.model}")
        if self.num_waiting >= NUM_WAITING:
            return _refusal(429, f"{NUM_WAITING:,} requests wait already; try again later")
        problem, tree = self.solver.begin(ask.messages[-1].text)
        way, budget = self.solver.way, ask.max_completion_tokens or ask.max_tokens
        own = msgspec.structs.replace(way, max_tokens=budget or way.max_tokens)
        self.num_waiting += 1
        try:
            solution = await _unless_left(request, self._solve(problem, tree, own))
        finally:
            self.num_waiting -= 1
        if solution is None:
            return _refusal(CLIENT_LEFT, "the client has left, and its search was ended")
        return _answer(self._keep(tree), model, len(tree.prompt), solution, streams=bool(ask.stream))

    async def _solve(self, problem: Problem, tree: Tree, way: Way) -> Solution:
        """Once there is room for it."""
        async with self._room:
            return await self.solver.solve(problem, tree, way)

    def _keep(self, tree: Tree) -> str:
        number = secrets.token_hex(8)
        self._trees[number] = tree
        if len(self._trees) > NUM_TREES:
            self._trees.popitem(last=False)
        return number

    async def models(self, request: "Request") -> "Response":
        """The one model, in a list."""
        one = {"id": self.solver.config.model.path, "object": "model", "created": 0, "owned_by": "tsd"}
        return _json({"object": "list", "data": [one]})

    async def tree(self, request: "Request") -> "Response":
        """A tree that was searched for an answer."""
        tree = self._trees.get(request.path_params["number"])
        return (
            _json(self.solver.record(tree)) if tree else _refusal(404, f"no such tree; the last {NUM_TREES:,} are kept")
        )

    async def refuse(self, request: "Request", error: Exception) -> "Response":
        """The answer to a question that cannot be read."""
        return _refusal(400, str(error))

    async def fail(self, request: "Request", error: Exception) -> "Response":
        """An answer is lost by a fault of the task; all after it too where the engine has died."""
        first = leaves(error)[0] if isinstance(error, BaseExceptionGroup) else error
        if isinstance(first, EngineError) and not self.dead.done():
            self.dead.set_result(first)
        return _refusal(500, str(first), "server_error")


async def _unless_left(request: "Request", work: Coroutine[Any, Any, T]) -> T | None:
    """What the work comes to; None where the client leaves before, and the work is then cancelled."""
    async with asyncio.TaskGroup() as group:
        working = group.create_task(work, name="search")
        leaving = group.create_task(_left(request), name="wait for the client to leave")
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        leaving.cancel()
    return None if working.cancelled() else working.result()


async def _left(request: "Request") -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(content: object, status: int = 200) -> "Response":
    from starlette.responses import Response

    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _refusal(status: int, message: str, kind: str = "invalid_request_error") -> "Response":
    return _json({"error": {"message": message, "type": kind, "param": None, "code": None}}, status)


def _answer(number: str, model: str, num_prompt: int, solution: Solution, *, streams: bool) -> "Response":
    """As OpenAI's clients read it; `tsd` has what search says of it, and the tree's number."""
    from starlette.responses import Response

    said = {"role": "assistant", "content": "".join(solution.steps)}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "delta" if streams else "message": said}
    num = solution.generated_tokens
    whole = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk" if streams else "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": {"prompt_tokens": num_prompt, "completion_tokens": num, "total_tokens": num_prompt + num},
        "tsd": {"tree": number, "grade": solution.grade, "ended_by": solution.ended_by},
    }
    if not streams:
        return _json(whole)
    return Response(b"data: " + msgspec.json.encode(whole) + b"\n\ndata: [DONE]\n\n", media_type="text/event-stream")


def make_app(server: Server) -> "Starlette":
    """The three routes, for names of this machine alone: a page from elsewhere cannot ask under its own."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    return Starlette(
        routes=[
            Route("/v1/chat/completions", server.complete, methods=["POST"]),
            Route("/v1/models", server.models),
            Route("/v1/trees/{number}", server.tree),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])],
        exception_handlers={ValueError: server.refuse, TsdError: server.fail, ExceptionGroup: server.fail},
    )


def _listen(server: Server, port: int) -> "tuple[uvicorn.Server, socket.socket]":
    """Reads files: not for the event loop. Raises ValueError where the port is taken."""
    import uvicorn

    try:
        listening = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise ValueError(f"--port {port}: cannot listen on {LOOPBACK}: {error.strerror}; name another") from None
    config = uvicorn.Config(make_app(server), log_level="warning", lifespan="off", timeout_graceful_shutdown=GRACE_S)
    config.load()
    return uvicorn.Server(config), listening


@asynccontextmanager
async def serving(solver: Solver, port: int) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The endpoint's address, and what is set once it has ended; it ends with the context.

    Raises ValueError where the port is taken or the extra is missing, EngineError where the engine has died.
    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise ValueError("tsd serve: starlette and uvicorn are not installed; run pip install 'tsd[serve]'")
    server, ended = Server(solver), asyncio.Event()
    http, listening = await asyncio.to_thread(_listen, server, port)

    async def run() -> None:
        """Until Ctrl-C, SIGTERM or a failure."""
        try:
            await http.serve([listening])
        finally:
            ended.set()

    async def stop_when_dead() -> None:
        error = await server.dead
        http.should_exit = True
        await ended.wait()
        raise error

    async with solver.generation.engine, asyncio.TaskGroup() as group:
        group.create_task(run(), name="http")
        watching = group.create_task(stop_when_dead(), name="stop when dead")
        try:
            yield f"http://{LOOPBACK}:{listening.getsockname()[1]}/v1", ended
        finally:
            http.should_exit = True
            await ended.wait()
            if not server.dead.done():
                watching.cancel()


async def serve(solver: Solver, port: int, say: Callable[[str], None]) -> None:
    """Until Ctrl-C; `say` gets the address."""
    async with serving(solver, port) as (address, ended):
        say(f"{address}: {solver.config.model.path}, searched on {solver.config.engine.kind}; Ctrl-C ends it")
        await ended.wait()
