"""Where models lie. Imports neither torch nor transformers."""

import hashlib
from importlib.resources import files
from pathlib import Path

BUILTIN = "builtin:"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Weights in Python's own format, which can hold any program."""
SUPPORTED_MODEL_TYPES = ("qwen2", "qwen3", "llama")
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
VALUE_HEAD_FILE = "value_head.safetensors"
HEAD_PREFIX = "value_head."
"""Before the names of the value head's tensors."""
OPTIMIZER_FILE = "optimizer.state"
"""A safetensors file by another name: vLLM takes every `*.safetensors` of a model directory for weights."""
TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "added_tokens.json", "special_tokens_map.json")
MOCK_FILE = "mock.json"
"""What a checkpoint of the mock learner holds instead of a model."""


def model_path(path: str) -> Path:
    """The directory a `model.path` names. Raises ValueError when no model is there, or one that may run code."""
    if path.startswith(BUILTIN):
        directory = Path(str(files("tsd") / "model" / path.removeprefix(BUILTIN)))
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


def tokenizer_hash(directory: Path) -> str:
    """A digest of the files that say which token is which: 16 hexadecimal digits."""
    found = hashlib.sha256()
    for path in sorted(path for pattern in TOKENIZER_FILES for path in directory.glob(pattern)):
        found.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]
