"""What a generator says of itself, every few seconds: a metrics row, and one of its trees at a glance.

    write_rows   wakes every REPORT_EVERY_S
    watch_loop   wakes every LAG_PROBE_S, to see how late it is

Knows nothing about how trees are grown or sent.
"""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tsd.observe.live import write_glance
from tsd.observe.metrics import GeneratorRow, MetricsWriter
from tsd.search import Calibration, Tree, glance
from tsd.transport.trajectories import Outbox
from tsd.types import CountsCacheHits, Engine, TextCodec

REPORT_EVERY_S = 2.0
LAG_PROBE_S = 0.05
BLIND = 0.02
"""A V that explains no more than this share of the rewards' variance says nothing."""


class Counters(msgspec.Struct):
    """What a generator has done so far."""

    num_trees: int = 0
    num_simulations: int = 0
    num_generated: int = 0
    num_solved: int = 0
    cache_hits: int = 0
    cache_lookups: int = 0


@dataclass(slots=True)
class Reporter:
    """One generator's."""

    index: int
    run_dir: Path
    metrics: MetricsWriter
    engine: Engine
    outbox: Outbox
    codec: TextCodec
    calibration: Calibration
    counters: Counters = field(default_factory=Counters)
    growing: list[Tree] = field(default_factory=list)
    """Trees under way, the oldest first."""
    num_waiting: int = 0
    """Trees finished that wait for room among what is out."""
    loop_lag_s: float = 0.0
    """Longest since the last report."""
    has_warned: bool = False

    def count(self, tree: Tree) -> None:
        """A tree is finished."""
        self.counters.num_trees += 1
        self.counters.num_simulations += tree.num_simulations
        self.counters.num_generated += tree.num_generated
        self.counters.num_solved += tree.solved

    async def write_rows(self) -> None:
        """Until cancelled."""
        before, started = msgspec.structs.replace(self.counters), time.monotonic()
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            if isinstance(self.engine, CountsCacheHits):
                self.counters.cache_hits, self.counters.cache_lookups = self.engine.cache_hits
            self.metrics.write(self._row(before, time.monotonic() - started))
            self._warn_of_blindness()
            before, started, self.loop_lag_s = msgspec.structs.replace(self.counters), time.monotonic(), 0.0
            if self.index == 0 and self.growing:
                seen = glance(self.growing[0], self.codec.decode)
                await asyncio.to_thread(write_glance, self.run_dir, seen)

    def _row(self, before: Counters, seconds: float) -> GeneratorRow:
        now = self.counters
        trees, lookups = now.num_trees - before.num_trees, now.cache_lookups - before.cache_lookups
        return GeneratorRow(
            generator=self.index,
            version=self.engine.version,
            num_trees=now.num_trees,
            num_simulations=now.num_simulations,
            generated_tokens=now.num_generated,
            simulations_per_s=(now.num_simulations - before.num_simulations) / seconds,
            tokens_per_s=(now.num_generated - before.num_generated) / seconds,
            solved_share=(now.num_solved - before.num_solved) / trees if trees else None,
            loop_lag_s=self.loop_lag_s,
            cache_hit_share=(now.cache_hits - before.cache_hits) / lookups if lookups else None,
            value_explains=self.calibration.explained,
            num_out=self.outbox.num_out,
            num_waiting=self.num_waiting,
        )

    def _warn_of_blindness(self) -> None:
        """Once: a search that goes by V is no better than samples where V says nothing."""
        explained = self.calibration.explained
        if explained and max(explained) < BLIND and not self.has_warned:
            self.has_warned = True
            most = max(0.0, *explained)
            said = (
                f"V is blind: after no step does it explain more than {most:.0%} of a path's reward; "
                "search by index is then hardly more than samples"
            )
            self.metrics.event(f"generator-{self.index}", said, is_warning=True)

    async def watch_loop(self) -> None:
        """Measures how late the event loop runs, until cancelled."""
        while True:
            due = time.monotonic() + LAG_PROBE_S
            await asyncio.sleep(LAG_PROBE_S)
            self.loop_lag_s = max(self.loop_lag_s, time.monotonic() - due)
