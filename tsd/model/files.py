"""Where models lie. Imports neither torch nor transformers."""

from importlib.resources import files
from pathlib import Path

BUILTIN = "builtin:"
VALUE_HEAD_FILE = "value_head.safetensors"
MOCK_FILE = "mock.json"
"""What a checkpoint of the mock learner holds instead of a model."""


def model_path(path: str) -> Path:
    """The directory a `model.path` names. Raises ValueError when no model is there."""
    if path.startswith(BUILTIN):
        directory = Path(str(files("tsd") / "assets" / path.removeprefix(BUILTIN)))
    else:
        directory = Path(path).expanduser()
    if not (directory / "config.json").is_file():
        raise ValueError(f"model.path: expected a Hugging Face model directory, found no config.json in {directory}")
    return directory
