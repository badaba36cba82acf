"""Models by name from Hugging Face's hub: `OWNER/NAME`, or `OWNER/NAME@REVISION`.

`huggingface_hub` does the work, so its cache, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE hold. Whoever starts a run
fetches a model once; its processes find it in the cache by the revision (`tsd.model.files`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from tsd.config import Config
from tsd.model.files import TOKENIZER_FILES, hub_name

SHAPE = ("config.json",)
"""What a plan reads of a model."""
SMALL = (*SHAPE, "generation_config.json", "calibration.json", "chat_template.*", *TOKENIZER_FILES)
"""What tsd reads of a model beside its weights."""
WEIGHTS = "model*.safetensors"
FILES = (*SMALL, WEIGHTS, "model.safetensors.index.json", "value_head.safetensors")


class Unreachable(ValueError):
    """Raised when the hub does not answer, or must not be asked, and the cache lacks what is needed."""


def fetched(config: Config, files: Sequence[str] = FILES) -> Config:
    """The configuration with the revisions of its models, whose files are then in the cache.

    Raises ValueError, one line, where they cannot be had.
    """
    model, reward = config.model, config.reward
    if config.engine.needs_model:
        model = replace(model, path=fetch(model.path, files))
    if reward.model:
        reward = replace(reward, model=fetch(reward.model, files, "reward.model"))
    return replace(config, model=model, reward=reward)


def fetch(path: str, files: Sequence[str] = FILES, key: str = "model.path") -> str:
    """Downloads those files of a model where the cache lacks them; its name with its revision, for `model_path`.

    What is no name of the hub is given back as it is. Raises ValueError as `fetched` does.
    """
    if (named := hub_name(path)) is None:
        return path
    from huggingface_hub import constants, snapshot_download  # takes a moment
    from huggingface_hub.utils.tqdm import disable_progress_bars

    name, revision = named
    if not sys.stderr.isatty():
        disable_progress_bars()
        print(f"{path}: from {constants.ENDPOINT}, unless it is in {constants.HF_HUB_CACHE}", file=sys.stderr)
    try:
        directory = Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except Exception as error:
        raise _refusal(key, name, revision, error) from error
    if WEIGHTS in files and not any(directory.glob(WEIGHTS)):
        raise ValueError(f"{key}: {path} has no {WEIGHTS}, and tsd reads no other weights; name another model")
    return f"{name}@{directory.name}"


def _refusal(key: str, name: str, revision: str, error: Exception) -> ValueError:
    """Why a model cannot be had, and what to do about it."""
    from huggingface_hub import constants, errors

    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    token = "sign in with `hf auth login` or HF_TOKEN"
    match error:
        case errors.GatedRepoError():
            return ValueError(f"{key}: {name} is gated; accept its terms at {hub}/{name}, and {token}")
        case errors.RepositoryNotFoundError():
            here = f"there is no directory {name} here, and no such model at {hub}"
            return ValueError(f"{key}: {here}; check the name, or, where it is private, {token}")
        case errors.RevisionNotFoundError():
            return ValueError(f"{key}: {name} has no revision {revision}; see {hub}/{name}/commits/main")
        case errors.LocalEntryNotFoundError():
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{hub} cannot be reached"
            lacks = f"{cache} does not hold all of {name}@{revision}"
            return Unreachable(f"{key}: {why}, and {lacks}; fetch it while online, or name a directory")
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ValueError(f"{key}: cannot fetch {name}@{revision} from {hub}: {first}")
