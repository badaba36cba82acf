"""The engines behind `tsd.types.Engine`, by name. Each is imported when it is asked for, torch and vllm with it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import assert_never

from tsd.config import Config, EngineConfig
from tsd.model.files import model_path
from tsd.types import Engine, TextCodec


@dataclass(frozen=True, slots=True)
class Generation:
    """An engine not yet started, and the codec that goes with it."""

    engine: Engine
    codec: TextCodec


def engine_model(config: Config) -> Path | None:
    """The directory of the model that a run's engine starts with; None for an engine that needs none.

    Raises ValueError where there is no model.
    """
    return model_path(config.model.path) if config.engine.needs_model else None


def make_engine(
    config: Config, directory: Path | None, *, temperature: float, seed: int, top_p: float = 1.0
) -> Generation:
    """The engine that `engine.kind` names, on the model in `directory`.

    `top_p` below 1 is for evaluations: what is sampled so is no sample of the policy that logprobs speak of.

    Raises ValueError for a directory that is no model. An engine that cannot start says so when entered.
    """
    match config.engine.kind:
        case "null":
            from tsd.engine.mock import CharCodec
            from tsd.engine.null import NullEngine

            return Generation(NullEngine(), CharCodec())
        case "mock":
            return _mock(config.engine, directory, seed)
        case "torch":
            from tsd.engine.torch_engine import TorchEngine

            return _on_model(TorchEngine, config, directory, temperature=temperature, seed=seed, top_p=top_p)
        case "vllm":
            from tsd.engine.vllm_engine import VllmEngine

            placement = config.placement
            shares = config.evaluate.every > 0 or any(map(placement.is_shared, placement.gen))
            make = partial(VllmEngine, shares_gpu=shares, num_gpus=placement.gpus_each)
            return _on_model(make, config, directory, temperature=temperature, seed=seed, top_p=top_p)
    assert_never(config.engine.kind)


def _mock(engine: EngineConfig, directory: Path | None, seed: int) -> Generation:
    from tsd.engine.mock import CharCodec, MockEngine, saved_solve_rate

    mock = MockEngine(
        solve_rate=saved_solve_rate(directory, engine.mock_solve_rate),
        latency_s=engine.mock_latency_s,
        value_noise=engine.mock_value_noise,
        seed=seed,
    )
    return Generation(mock, CharCodec())


def _on_model(make: Callable[..., Engine], config: Config, directory: Path | None, **sampling: float) -> Generation:
    """An engine whose weights are a directory's."""
    assert directory is not None, "engines that need a model are given one"
    from tsd.model.text import HfCodec

    codec, dtype, head_dtype = HfCodec(directory), config.model.dtype, config.model.head_dtype
    engine = make(directory, config.engine, dtype=dtype, head_dtype=head_dtype, **sampling)
    return Generation(engine, codec)
