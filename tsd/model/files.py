"""Where models lie. Imports neither torch nor transformers."""

from importlib.resources import files
from pathlib import Path

BUILTIN = "builtin:"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Weights in Python's own format, which can hold any program."""
VALUE_HEAD_FILE = "value_head.safetensors"
MOCK_FILE = "mock.json"
"""What a checkpoint of the mock learner holds instead of a model."""


def model_path(path: str) -> Path:
    """The directory a `model.path` names. Raises ValueError when no model is there, or one that may run code."""
    if path.startswith(BUILTIN):
        directory = Path(str(files("tsd") / "assets" / path.removeprefix(BUILTIN)))
    else:
        directory = Path(path).expanduser()
    if not (directory / "config.json").is_file():
        raise ValueError(f"model.path: expected a Hugging Face model directory, found no config.json in {directory}")
    pickled = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLED)
    if pickled and not any(directory.glob("model*.safetensors")):
        raise ValueError(
            f"model.path: {pickled[0]} in {directory} may run code when it is read, and tsd reads safetensors alone; "
            "load the model where you trust it and save it again"
        )
    return directory
