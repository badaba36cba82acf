"""`tsd serve`, asked as its users do: with the `openai` client."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import msgspec
import pytest
from openai import APIStatusError, AsyncOpenAI

from tests.support.fakes import ScriptedEngine
from tsd.config import load_config
from tsd.errors import EngineError
from tsd.search import TreeRecord
from tsd.solve.serve import serving
from tsd.solve.solve import Solver, make_solver
from tsd.types import Expansion

PROBLEM = "5 13 5 9 = 31"
MODEL = "builtin:countdown-tiny"


def make(*settings: str) -> Solver:
    """On the mock engine, which is often right."""
    options = ("engine.kind=mock", "engine.mock_solve_rate=0.6", "method.max_tokens=4000", "method.solutions=1")
    return make_solver(load_config(None, (*options, *settings)))


@asynccontextmanager
async def client(solver: Solver) -> AsyncIterator[AsyncOpenAI]:
    async with (
        serving(solver, 0) as (address, _),
        AsyncOpenAI(base_url=address, api_key="none", max_retries=0) as asking,
    ):
        yield asking


async def ask(asking: AsyncOpenAI, text: str = PROBLEM, **options: object) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    found = await asking.chat.completions.create(model=MODEL, messages=messages, **options)  # type: ignore[call-overload]
    return {"content": found.choices[0].message.content, "usage": found.usage, **found.model_extra["tsd"]}


async def test_a_client_gets_a_solved_answer_and_the_tree_that_it_came_from() -> None:
    async with client(make()) as asking:
        found = await ask(asking)
        assert found["grade"]["exact"]  # type: ignore[index]
        assert str(found["content"]).endswith("</answer>")
        assert found["usage"].completion_tokens > 0  # type: ignore[attr-defined]
        saved = await asking.get(f"/trees/{found['tree']}", cast_to=httpx.Response)
        nodes = msgspec.json.decode(saved.content, type=TreeRecord).nodes
        assert any(node.grade and node.grade.exact for node in nodes)
        assert [model.id async for model in asking.models.list()] == [MODEL]


async def test_two_hundred_requests_at_once_all_get_their_own_answer() -> None:
    problems = [f"{1 + i % 13} {1 + i % 7} {1 + i % 5} 9 = 24" for i in range(200)]
    async with client(make("search.trees=16")) as asking:
        found = await asyncio.gather(*(ask(asking, one) for one in problems))
    assert len({one["tree"] for one in found}) == 200


async def test_a_stream_is_the_whole_answer_at_once() -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": PROBLEM}]}]
    async with serving(make(), 0) as (address, _), httpx.AsyncClient() as asking:
        found = await asking.post(f"{address}/chat/completions", json={"messages": said, "stream": True})
    chunk, end = found.text.removeprefix("data: ").split("\n\ndata: ")
    assert msgspec.json.decode(chunk)["choices"][0]["delta"]["content"].endswith("</answer>")
    assert end == "[DONE]\n\n"


async def test_a_requests_budget_is_its_trees() -> None:
    async with client(make("engine.mock_solve_rate=0.0")) as asking:
        small, large = [await ask(asking, max_completion_tokens=budget) for budget in (50, 500)]
    assert small["ended_by"] == large["ended_by"] == "tokens"
    assert 50 <= small["usage"].completion_tokens < 500 <= large["usage"].completion_tokens  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("{", 400, "truncated"),
        ('{"messages": []}', 400, "length >= 1"),
        ('{"messages": [{"role": "user", "content": "five and six"}]}', 400, "five and six"),
        ('{"messages": [{"role": "user", "content": "5 13 5 9 = 31"}], "n": 3}', 400, "n"),
        ('{"messages": [{"role": "user", "content": "5 13 5 9 = 31"}], "max_tokens": 0}', 400, "max_tokens"),
        ('{"messages": [{"role": "user", "content": "5 13 5 9 = 31"}], "model": "gpt"}', 404, f"expected {MODEL}"),
    ],
)
async def test_a_question_that_cannot_be_read_is_answered_with_what_is_wrong(
    body: str, status: int, message: str
) -> None:
    async with serving(make(), 0) as (address, _), httpx.AsyncClient() as asking:
        found = await asking.post(f"{address}/chat/completions", content=body)
    assert found.status_code == status
    assert message in found.json()["error"]["message"]


async def test_a_model_of_the_hub_is_asked_for_by_its_name_with_its_commit_or_without() -> None:
    solver = make()
    model = msgspec.structs.replace(solver.config.model, path="tsd/tiny@c0ffee")
    named = replace(solver, config=msgspec.structs.replace(solver.config, model=model))
    said = [{"role": "user", "content": PROBLEM}]
    async with serving(named, 0) as (address, _), httpx.AsyncClient() as asking:
        found = [
            await asking.post(f"{address}/chat/completions", json={"messages": said, "model": name})
            for name in ("tsd/tiny", "tsd/tiny@c0ffee", "tsd/tiny@other")
        ]
    assert [one.status_code for one in found] == [200, 200, 404]


class Endless(ScriptedEngine):
    """Never answers; `idle` is set while nobody asks."""

    def __init__(self) -> None:
        super().__init__(lambda state: Expansion(0.0, ()), latency_s=3600)
        self.idle = asyncio.Event()

    async def expand(
        self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
    ) -> Expansion:
        self.idle.clear()
        try:
            return await super().expand(state, num_samples, max_tokens, excluded)
        finally:
            if not self.num_in_flight:
                self.idle.set()


async def test_a_client_that_leaves_takes_its_search_with_it() -> None:
    engine = Endless()
    solver = make("search.trees=1")
    slow = replace(solver, generation=replace(solver.generation, engine=engine))
    said = {"messages": [{"role": "user", "content": PROBLEM}]}
    begun = [0]
    async with serving(slow, 0) as (address, _), httpx.AsyncClient(timeout=1) as asking, asyncio.timeout(30):
        for _ in range(2):  # the second one gets the only room there is
            with pytest.raises(httpx.ReadTimeout):
                await asking.post(f"{address}/chat/completions", json=said)
            await engine.idle.wait()
            begun.append(len(engine.expanded))
    assert 0 < begun[1] < begun[2] == engine.num_cancelled


async def test_pages_from_elsewhere_and_unknown_trees_get_nothing() -> None:
    async with serving(make(), 0) as (address, _), httpx.AsyncClient() as asking:
        elsewhere = await asking.get(f"{address}/models", headers={"host": "evil.example"})
        unknown = await asking.get(f"{address}/trees/0123")
    assert (elsewhere.status_code, unknown.status_code) == (400, 404)


async def test_a_port_that_is_taken_is_named() -> None:
    async with serving(make(), 0) as (address, _):
        port = int(address.rsplit(":", 1)[1].removesuffix("/v1"))
        with pytest.raises(ValueError, match=rf"--port {port}: cannot listen on 127\.0\.0\.1"):
            async with serving(make(), port):
                pass


async def test_the_command_says_where_it_listens_and_ends_with_ctrl_c() -> None:
    command = (sys.executable, "-m", "tsd", "serve", MODEL, "--engine", "mock", "--port", "0")
    served = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert served.stdout is not None
    line = (await served.stdout.readline()).decode()
    address = line.partition(": ")[0]
    async with httpx.AsyncClient() as asking:
        said = {"messages": [{"role": "user", "content": PROBLEM}]}
        found = await asking.post(f"{address}/chat/completions", json=said, timeout=30)
    served.send_signal(signal.SIGINT)
    assert await served.wait() == 130
    assert found.json()["tsd"]["grade"]["well_formed"]


async def test_the_server_ends_with_its_engines_last_words() -> None:
    def die(state: tuple[int, ...]) -> Expansion:
        raise EngineError("the engine has died")

    solver = make()
    broken = replace(solver, generation=replace(solver.generation, engine=ScriptedEngine(die)))
    with pytest.raises(ExceptionGroup) as caught:
        await asked_in_vain(broken)
    assert caught.group_contains(EngineError, match="the engine has died")


async def asked_in_vain(solver: Solver) -> None:
    """Waits for the server's end."""
    async with serving(solver, 0) as (address, ended):
        async with AsyncOpenAI(base_url=address, api_key="none", max_retries=0) as asking:
            with pytest.raises(APIStatusError, match="the engine has died"):
                await ask(asking)
        await asyncio.wait_for(ended.wait(), 10)
