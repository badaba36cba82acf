"""The command line: `app` reads options, `make` and `view` more of them; `commands` does what short commands do."""

from tsd.cli.app import main

__all__ = ["main"]
