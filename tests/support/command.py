"""The command line in this process."""

from tsd.cli.app import app, exit_code


def tsd(*arguments: str) -> object:
    """Runs a command as `tsd` does; its exit code."""
    try:
        return exit_code(lambda: app(arguments))
    except SystemExit as end:
        return end.code
