"""One measurement as data, and how it is computed from grown trees and a few timings."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from tsd.config import Config, PuctConfig
from tsd.search import Node, Status, Tree, tree_hash


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """`problems` trees, `trees` at a time."""

    engine: str
    agents: int
    trees: int
    problems: int
    simulations: int
    """Budget of each tree, as asked for; a tree with nothing left to search ends sooner."""
    seed: int
    us_per_sim: float
    """Wall-clock microseconds per simulation, engine included: with `null`, what search itself costs."""
    python_us_per_sim: float
    """CPU time of the event loop's thread per simulation."""
    bare_us_per_call: float
    """Wall-clock microseconds per call of a bare loop that awaits the same engine calls, `mean_in_flight` at once."""
    sims_per_s: float
    expansions_per_s: float
    tokens_per_s: float
    engine_ceiling_expansions_per_s: float
    """Calls by the second of the bare loop."""
    ceiling_share: float
    mean_in_flight: float
    """Engine calls under way, on average."""
    loop_lag_p99_ms: float
    num_simulations: int
    num_collisions: int
    num_duplicates: int
    duplicate_rate: float
    """Share of samples that are equal to an earlier one from the same state."""
    prefix_cache_hit_rate: float | None
    """Share of engine calls whose state's keys and values were there. None where the engine does not say."""
    mean_depth: float
    max_depth: int
    truncated_share: float
    """Share of nodes."""
    solve_rate: float
    one_agent_solve_rate: float | None
    """The same problems and budgets with one agent on each tree; None on `null` and for one agent."""
    residual_in_flight: int
    """Simulations still marked in a tree after its end: must be 0."""
    bytes_per_node: float
    """Memory of nodes, steps, logprobs and values; token ids not counted."""
    peak_memory_mb: float
    tree_hash: str
    """The first tree's; the same for the same seed on null and mock, with one tree at a time."""
    solved_at: tuple[int, ...]
    """Simulations that each solved tree needed: the curve of solve rate against simulations."""


@dataclass(slots=True)
class Timings:
    """What was measured besides the trees."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    """Processor time of the event loop's thread."""
    bare_s: float = 0.0
    """Per call of the bare loop."""
    lags_s: list[float] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)
    hit_rate: float | None = None
    one_agent_solve_rate: float | None = None
    peak_memory_mb: float = 0.0


def sum_up(config: Config, way: PuctConfig, trees: int, grove: Sequence[Tree], timings: Timings) -> Measurement:
    """Sums a grove up."""
    nodes = [node for tree in grove for node in tree.root.walk()]
    sims, expansions, duplicates = (
        sum(getattr(tree, name) for tree in grove) for name in ("num_simulations", "num_expansions", "num_duplicates")
    )
    seconds = timings.seconds
    return Measurement(
        engine=config.engine.kind,
        agents=way.agents,
        trees=trees,
        problems=len(grove),
        simulations=way.simulations,
        seed=config.seed,
        us_per_sim=1e6 * seconds / sims,
        python_us_per_sim=1e6 * timings.cpu_s / sims,
        bare_us_per_call=1e6 * timings.bare_s,
        sims_per_s=sims / seconds,
        expansions_per_s=expansions / seconds,
        tokens_per_s=sum(tree.num_generated for tree in grove) / seconds,
        engine_ceiling_expansions_per_s=1 / timings.bare_s,
        ceiling_share=expansions / seconds * timings.bare_s,
        mean_in_flight=statistics.fmean(timings.in_flight or [0]),
        loop_lag_p99_ms=1e3 * percentile(timings.lags_s, 0.99),
        num_simulations=sims,
        num_collisions=sum(tree.num_collisions for tree in grove),
        num_duplicates=duplicates,
        duplicate_rate=duplicates / (expansions * way.num_samples),
        prefix_cache_hit_rate=timings.hit_rate,
        mean_depth=statistics.fmean(node.depth for node in nodes),
        max_depth=max(node.depth for node in nodes),
        truncated_share=statistics.fmean(node.status is Status.TRUNCATED for node in nodes),
        solve_rate=statistics.fmean(tree.solved for tree in grove),
        one_agent_solve_rate=timings.one_agent_solve_rate,
        residual_in_flight=sum(node.in_flight for node in nodes),
        bytes_per_node=statistics.fmean(map(num_bytes, nodes)),
        peak_memory_mb=timings.peak_memory_mb,
        tree_hash=tree_hash(grove[0]),
        solved_at=tuple(sorted(t.num_simulations_to_solve for t in grove if t.num_simulations_to_solve is not None)),
    )


def num_bytes(node: Node) -> int:
    """What a node holds alone: itself, its list of children, its step but for the token ids, its own numbers."""
    parts: list[object] = [node, node.made, node.value_sum, node.mean, node.prior, node.value, node.grade]
    if node.step is not None:
        parts += [node.step, node.step.logprobs, node.step.values]
        if isinstance(node.step.logprobs, tuple):  # an array holds its numbers itself
            parts += [*node.step.logprobs, *node.step.values]
    return sum(sys.getsizeof(part) for part in parts if part is not None)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0
