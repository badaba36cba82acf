"""Who a run's processes are to each other: an id that the run directory keeps, and what they read their tokens with.

Knows nothing about sockets; `tsd.transport.hello` says what is done with it.
"""

import uuid
from pathlib import Path

from tsd.config import Config
from tsd.model.files import model_path, tokenizer_hash
from tsd.transport.hello import Hello

RUN_ID_FILE = "run-id"


def name_run(run_dir: Path) -> None:
    """Gives a new run its id, which it keeps when it is resumed."""
    (run_dir / RUN_ID_FILE).write_text(uuid.uuid4().hex[:16] + "\n")


def run_id(run_dir: Path) -> str:
    """A run from before there were ids has an empty one."""
    path = run_dir / RUN_ID_FILE
    return path.read_text().strip() if path.exists() else ""


def identify(run_dir: Path, config: Config) -> Hello:
    """What this process says of itself, and expects of others.

    Raises ValueError where the configuration names no model.
    """
    # Of the model that the run started from: a checkpoint holds the same tokenizer, but as its library writes it now.
    tokenizer = tokenizer_hash(model_path(config.model.path)) if config.engine.needs_model else ""
    return Hello(run=run_id(run_dir), tokenizer=tokenizer)
