"""The whole configuration: one frozen, typed structure, read from TOML. Every setting is documented in `sections`."""

from tsd.config.file import MAIN_JOB, load_config, save_config
from tsd.config.sections import (
    Config,
    EngineConfig,
    EvaluateConfig,
    HarvestConfig,
    HeadDtype,
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
    "MAIN_JOB",
    "Config",
    "EngineConfig",
    "EvaluateConfig",
    "HarvestConfig",
    "HeadDtype",
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
