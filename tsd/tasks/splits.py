"""Which split a problem belongs to: a hash of what makes it that problem says, so that splits share none.

Knows nothing about what problems are.
"""

import hashlib

from tsd.types import Split

SPLIT_PERCENT: dict[Split, range] = {"train": range(90), "heldout": range(90, 95), "validation": range(95, 100)}


def in_split(key: str, split: Split) -> bool:
    """Whether the problem is the split's; equal problems need equal keys."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 in SPLIT_PERCENT[split]
