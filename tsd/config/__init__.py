"""The whole configuration: one frozen, typed structure, read from TOML. Every setting is documented in `sections`."""

from tsd.config.file import MAIN_JOB, load_config, save_config
from tsd.config.losses import CispoConfig, LossConfig, PpoConfig
from tsd.config.methods import BestOfConfig, GroupsConfig, IndexConfig, MethodConfig, PuctConfig, kind
from tsd.config.sections import (
    Config,
    EngineConfig,
    EvaluateConfig,
    HeadDtype,
    ModelConfig,
    ObserveConfig,
    RewardConfig,
    SearchConfig,
    TaskConfig,
    TrainConfig,
)
from tsd.config.transport import TransportConfig

__all__ = [
    "MAIN_JOB",
    "BestOfConfig",
    "CispoConfig",
    "Config",
    "EngineConfig",
    "EvaluateConfig",
    "GroupsConfig",
    "HeadDtype",
    "IndexConfig",
    "LossConfig",
    "MethodConfig",
    "ModelConfig",
    "ObserveConfig",
    "PpoConfig",
    "PuctConfig",
    "RewardConfig",
    "SearchConfig",
    "TaskConfig",
    "TrainConfig",
    "TransportConfig",
    "kind",
    "load_config",
    "save_config",
]
