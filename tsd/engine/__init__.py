"""The engines behind `tsd.types.Engine`, by name. Each is imported when it is asked for, torch and vllm with it."""

from dataclasses import dataclass
from pathlib import Path

from tsd.config import Config
from tsd.config.devices import parse_gpus
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
    return None if config.engine.kind in ("null", "mock") else model_path(config.model.path)


def make_engine(config: Config, directory: Path | None, *, temperature: float, seed: int) -> Generation:
    """The engine that `engine.kind` names, on the model in `directory`.

    Raises ValueError for a directory that is no model. An engine that cannot start says so when entered.
    """
    engine = config.engine
    if engine.kind == "null":
        from tsd.engine.mock import CharCodec
        from tsd.engine.null import NullEngine

        return Generation(NullEngine(), CharCodec())
    if engine.kind == "mock":
        from tsd.engine.mock import CharCodec, MockEngine, saved_solve_rate

        mock = MockEngine(
            solve_rate=saved_solve_rate(directory, engine.mock_solve_rate),
            latency_s=engine.mock_latency_s,
            value_noise=engine.mock_value_noise,
            seed=seed,
        )
        return Generation(mock, CharCodec())
    assert directory is not None, "every engine but null and mock has a model"
    from tsd.model.text import HfCodec

    codec = HfCodec(directory)
    dtype, head_dtype = config.model.dtype, config.model.head_dtype
    if engine.kind == "vllm":
        from tsd.engine.vllm_engine import VllmEngine

        placement = parse_gpus(config.gpus)
        vllm = VllmEngine(
            directory,
            engine,
            temperature=temperature,
            dtype=dtype,
            head_dtype=head_dtype,
            seed=seed,
            shares_gpu=any(map(placement.is_shared, placement.gen)),
        )
        return Generation(vllm, codec)
    from tsd.engine.torch_engine import TorchEngine

    embedded = TorchEngine(directory, engine, temperature=temperature, dtype=dtype, head_dtype=head_dtype, seed=seed)
    return Generation(embedded, codec)
