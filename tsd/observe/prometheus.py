"""The last numbers of a run for Prometheus, at http://127.0.0.1:PORT/metrics as long as the run is up.

Of this machine alone: what others may see of a run is for its user to pass on. Knows nothing about what the numbers
mean. Imports prometheus_client only where it is asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from tsd.config import ObserveConfig
from tsd.config.extras import check_installed
from tsd.observe.metrics import MetricsRow
from tsd.observe.scalars import scalars
from tsd.observe.state import RunState

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LOOPBACK = "127.0.0.1"
OF_GENERATORS = (
    "version",
    "num_trees",
    "num_simulations",
    "generated_tokens",
    "simulations_per_s",
    "tokens_per_s",
    "solved_share",
    "loop_lag_s",
)


def check_prometheus(config: ObserveConfig) -> None:
    """Raises ValueError where it is wanted and prometheus_client is not installed."""
    if config.prometheus_port:
        check_installed("observe.prometheus_port", "prometheus_client", "prometheus")


class Gauges:
    """Takes rows; gives the last numbers, by name, with the part after a slash, the generator or the evaluation as
    their label."""

    def __init__(self) -> None:
        self.state = RunState()

    def write(self, row: MetricsRow) -> None:
        self.state.absorb(row)

    def numbers(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Name, labels, value. Called from the server's thread: reads what is there at once and changes nothing."""
        state = self.state
        if (update := state.update) is not None:
            yield "tsd_update", {}, update.update
            for name, number in scalars(update).items():
                base, _, part = name.partition("/")
                yield f"tsd_{base}", {"of": part} if part else {}, number
        for row in tuple(state.generators.values()):
            for name, number in asdict(row).items():
                if name in OF_GENERATORS and number is not None:
                    yield f"tsd_generator_{name}", {"generator": str(row.generator)}, number
        for when, evaluation in tuple(state.evaluations.items()):
            yield "tsd_evaluation_mean_at_k", {"when": when}, evaluation.mean_at_k

    def collect(self) -> "Iterator[Metric]":
        """As prometheus_client asks for them: a family for each name."""
        from prometheus_client.core import GaugeMetricFamily

        families: dict[str, GaugeMetricFamily] = {}
        for name, labels, number in self.numbers():
            family = families.setdefault(name, GaugeMetricFamily(name, "see metrics.jsonl", labels=tuple(labels)))
            family.add_metric(tuple(labels.values()), number)
        yield from families.values()


@contextmanager
def serve_prometheus(port: int) -> Iterator[Gauges]:
    """Answers on this machine's loopback address until it is left. Raises ValueError where the port is taken."""
    from prometheus_client import CollectorRegistry, start_http_server

    gauges, registry = Gauges(), CollectorRegistry(auto_describe=False)
    registry.register(gauges)
    try:
        server, thread = start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        raise ValueError(f"observe.prometheus_port: cannot listen on {LOOPBACK}:{port}: {error.strerror}") from None
    try:
        yield gauges
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
