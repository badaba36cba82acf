"""Scores answers by a library: reasoning-gym, which makes problems too, or math-verify. Run as a plain file, by
`tsd.tasks.worker`.

    requests -> this process, which has the library -> a fork of it with limits, which runs the scorers
                killed when late, and forked anew, in milliseconds

The limits end what runs away and stop what an answer that is taken for Python would most easily do. They are no
sandbox for someone who means harm. Knows nothing about tsd; a request and its reply are a JSON line each.
"""

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, BinaryIO

BLOCK = 10_000
"""Numbers of one seed. A data set makes number `i` of seed `s` with `Random(s + i)`: seeds are a block apart."""
SCORE_S = 0.7
SCORE_CPU_S = 2
"""Limit of processor time, in whole seconds: it ends a scorer even when nobody is left to kill it."""
MEMORY_BYTES = 2 * 2**30
REFUSED = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "signal.", "pty.", "tempfile.", "webbrowser.")
ALLOWED = {"os.listdir", "os.scandir", "os.walk", "os.fwalk"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Problems:
    """The problems of a reasoning-gym data set, by number."""

    def __init__(self, name: str, options: str) -> None:
        import reasoning_gym

        self._create = partial(reasoning_gym.create_dataset, name, size=BLOCK, **json.loads(options))
        self.block = lru_cache(4)(lambda seed: self._create(seed=seed))
        self.entry = lru_cache(4096)(self._entry)
        self.entry(0)

    def _entry(self, number: int) -> dict[str, Any]:
        entry: dict[str, Any] = self.block(number - number % BLOCK)[number % BLOCK]
        return entry

    def questions(self, first: int, count: int) -> dict[str, Any]:
        return {"questions": [str(self.entry(number)["question"]) for number in range(first, first + count)]}

    def score(self, number: int, answer: str) -> float:
        return float(self.block(number - number % BLOCK).score_answer(answer, self.entry(number)))


FORMS = ("\\frac{1}{2}", "x^2+1", "\\sin^2 x", "x=3,y=4", "(1,2)", "\\text{a}", "\\begin{pmatrix}1&2\\end{pmatrix}")
"""Answers to read at the start: whoever has read them once reads the next in a tenth of the time."""


class Answers:
    """Mathematical answers, by what they should be."""

    def __init__(self) -> None:
        import math_verify

        configs = math_verify.LatexExtractionConfig(boxed_match_priority=0), math_verify.ExprExtractionConfig()
        # Its own limits are signals, which no scorer needs: whoever is late is killed.
        self._parse = partial(math_verify.parse, extraction_config=configs, parsing_timeout=None)
        self._verify = partial(math_verify.verify, timeout_seconds=None)
        for form in FORMS:
            self._verify(self._read(form), self._read(f"0+{form}"))

    def score(self, expected: str, answer: str) -> float:
        """1 where they are equal, else 0. Raises ValueError for an answer that is no mathematics."""
        if not (found := self._read(answer)):
            raise ValueError("no mathematics")
        return float(self._verify(self._read(expected), found))

    def _read(self, text: str) -> Any:
        return self._parse(f"\\boxed{{{text}}}")


LIBRARIES: dict[str, Callable[..., Any]] = {"reasoning-gym": Problems, "math-verify": Answers}


class Scorer:
    """A fork that scores one answer after another, until one takes too long."""

    def __init__(self, problems: Any) -> None:
        self._problems = problems
        self._fork()

    def score(self, request: dict[str, Any]) -> dict[str, Any]:
        """Nothing where the scorer fails, dies or is late; it then must be renewed."""
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError:
            line = b""
        else:
            line = self._replies.readline() if select.select([self._replies], [], [], SCORE_S)[0] else b""
        if line.endswith(b"\n"):
            said: dict[str, Any] = json.loads(line)
            return said
        return {}

    def renew(self) -> None:
        """Kills the fork and makes another."""
        self._end()
        self._fork()

    def _fork(self) -> None:
        (their_requests, requests), (replies, their_replies) = os.pipe(), os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(requests)
            os.close(replies)
            try:
                _serve(self._problems, os.fdopen(their_requests, "rb"), their_replies)
            finally:
                os._exit(1)
        os.close(their_requests)
        os.close(their_replies)
        self._requests, self._replies = os.fdopen(requests, "wb"), os.fdopen(replies, "rb")

    def _end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._replies.close()
        try:
            self._requests.close()
        except BrokenPipeError:  # what was still to be written has no reader
            return


def _serve(problems: Any, requests: BinaryIO, replies: int) -> None:
    """The fork's whole life: a number for each answer, or what was wrong with it."""
    for limit, value in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MEMORY_BYTES)):
        resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sys.addaudithook(_refuse)
    for line in requests:
        request = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime) + 1 + SCORE_CPU_S
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_REAL, 2 * SCORE_S)
        said: dict[str, Any] = {}
        try:
            said["score"] = problems.score(request["score"], request["answer"])
        except Exception as error:  # noqa: BLE001
            said["error"] = repr(error)[:200]
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(replies, json.dumps(said).encode() + b"\n")


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """What no scorer has to do: start or end processes, use the network, change files."""
    if event.startswith(REFUSED) and event not in ALLOWED:
        raise PermissionError(f"{event} is not for scorers")
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        raise PermissionError("scorers write no files")


def main(library: str, *arguments: str) -> None:
    """Answers requests until there are no more."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what the library prints is no reply
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a thread would not survive the fork
    try:
        problems = LIBRARIES[library](*arguments)
    except Exception as error:  # noqa: BLE001
        replies.write(json.dumps({"error": repr(error)}).encode() + b"\n")
        return
    scorer = Scorer(problems)
    replies.write(b'{"ready":true}\n')
    for line in sys.stdin.buffer:
        request, said = json.loads(line), dict[str, Any]()
        if "score" in request:
            said = scorer.score(request)
        else:
            try:
                said = problems.questions(request["make"], request["count"])
            except Exception as error:  # noqa: BLE001
                said = {"error": repr(error)}
        replies.write(json.dumps(said).encode() + b"\n")
        if not said:  # only now: a fork that holds much memory takes long to end
            scorer.renew()


if __name__ == "__main__":
    main(*sys.argv[1:])
