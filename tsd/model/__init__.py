"""The language model with its value head, and its text codec: what engines and trainer share."""

from tsd.model.policy import Policy, ValueHead, model_path
from tsd.model.text import HfCodec

__all__ = ["HfCodec", "Policy", "ValueHead", "model_path"]
