"""Packages that tsd does not bring: each comes with an extra, and is asked for only where a setting wants it."""

from importlib.util import find_spec


def check_installed(setting: str, package: str, extra: str, called: str = "") -> None:
    """Raises ValueError, for the setting that wants a package, where it is not installed; `called` is its name."""
    if find_spec(package) is None:
        raise ValueError(f"{setting}: {called or package} is not installed; run pip install 'tsd[{extra}]'")
