"""Where models lie. Imports neither torch nor transformers."""

import hashlib
import re
from importlib.resources import files
from pathlib import Path

BUILTIN = "builtin:"
HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
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


def model_path(path: str, key: str = "model.path") -> Path:
    """The directory that a setting names, in the hub's cache for a name. Downloads nothing.

    Raises ValueError when no model is there, or one that may run code.
    """
    if path.startswith(BUILTIN):
        directory = Path(str(files("tsd") / "model" / path.removeprefix(BUILTIN)))
    elif named := hub_name(path):
        directory = _cached(key, *named)
    else:
        directory = Path(path).expanduser()
    if not (directory / "config.json").is_file():
        raise ValueError(f"{key}: expected a Hugging Face model directory, found no config.json in {directory}")
    pickled = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLED)
    if pickled and not any(directory.glob("model*.safetensors")):
        raise ValueError(
            f"{key}: {pickled[0]} in {directory} may run code when it is read, and tsd reads safetensors alone; "
            "load the model where you trust it and save it again"
        )
    return directory


def hub_name(path: str) -> tuple[str, str] | None:
    """The model of Hugging Face's hub that a path names, and its revision. None for a directory, which wins."""
    found = None if Path(path).is_dir() else HUB_NAME.fullmatch(path)
    return (found[1], found[2] or "main") if found else None


def _cached(key: str, name: str, revision: str) -> Path:
    from huggingface_hub import try_to_load_from_cache  # takes a moment

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(found, str):
        get = f"hf download {name} --revision {revision}"
        raise ValueError(f"{key}: no directory {name} is here, nor is {name}@{revision} in the hub's cache; {get}")
    return Path(found).parent


def tokenizer_hash(directory: Path) -> str:
    """A digest of the files that say which token is which: 16 hexadecimal digits."""
    found = hashlib.sha256()
    for path in sorted(path for pattern in TOKENIZER_FILES for path in directory.glob(pattern)):
        found.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]
