"""What to do about a setting that was refused: the choices there are, or the setting that was meant."""

import re
from difflib import get_close_matches

LIKENESS = 0.6
"""From 0 to 1: less alike is no misspelling."""
TRUNCATIONS = ("top_p", "top_k", "min_p")
"""What other programs call a sampler that leaves unlikely tokens out."""


def hint(refusal: str) -> str:
    """To follow a refusal by msgspec; empty where there is nothing to add."""
    from tsd.config.reference import reference  # reads the configuration's source: only where it is needed

    found = re.search(r" - at `\$(?:\.([\w.]+))?`", refusal)
    section = found[1] if found and found[1] else ""
    sections = reference()
    settings = [(one, each.kind) for each in sections for one in each.settings]
    if unknown := re.search(r"unknown field `(.+?)`", refusal):
        if own := [kind for one, kind in settings if one.path == f"{section}.{unknown[1]}"]:
            return f"; it is a setting of {section}.kind = {' or '.join(own)}"
        if unknown[1] in TRUNCATIONS:
            return "; training samples the whole policy, or its ratios would be biased: see evaluate.top_p"
        return _meant(section, unknown[1], [one.path for one, _ in settings])
    if section.endswith(".kind"):
        kinds = [each.kind for each in sections if f"{each.name}.kind" == section and each.kind]
        if kinds:
            return f"; expected {' or '.join(kinds)}"
    choices = next((one.kind for one, _ in settings if one.path == section), "")
    return f"; expected {choices}" if choices else ""


def _meant(section: str, key: str, paths: list[str]) -> str:
    """The setting of the same name elsewhere, or else the most alike."""
    elsewhere = [one for one in paths if one.rpartition(".")[2] == key]
    names = {one.rpartition(".")[2]: one for one in paths if one.startswith(f"{section}.")}
    alike = [names[name] for name in get_close_matches(key, names, n=1, cutoff=LIKENESS)]
    close = alike or list(dict.fromkeys(elsewhere))
    return f"; did you mean {' or '.join(close)}?" if close else "; `tsd config` lists the settings"
