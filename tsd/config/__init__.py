"""The whole configuration: one frozen, typed structure, read from TOML. Every setting is documented in `sections`."""

from tsd.config.file import load_config, save_config
from tsd.config.sections import (
    Config,
    EngineConfig,
    EvaluateConfig,
    HarvestConfig,
    LossConfig,
    Method,
    ModelConfig,
    ObserveConfig,
    RewardConfig,
    SampleConfig,
    SearchConfig,
    TaskConfig,
    TrainConfig,
)
from tsd.config.transport import TransportConfig

__all__ = [
    "Config",
    "EngineConfig",
    "EvaluateConfig",
    "HarvestConfig",
    "LossConfig",
    "Method",
    "ModelConfig",
    "ObserveConfig",
    "RewardConfig",
    "SampleConfig",
    "SearchConfig",
    "TaskConfig",
    "TrainConfig",
    "TransportConfig",
    "load_config",
    "save_config",
]
