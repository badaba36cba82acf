"""Numbers with bounds, as settings have them."""

import sys
from typing import Annotated

from msgspec import Meta

LARGEST = 2**63 - 1
"""What seeds, counters and the libraries that take them hold."""
FINITE = sys.float_info.max
"""Infinity is no setting: no file of a run could hold it."""
Count = Annotated[int, Meta(ge=1, le=LARGEST)]
Whole = Annotated[int, Meta(ge=0, le=LARGEST)]
Positive = Annotated[float, Meta(gt=0, le=FINITE)]
NotNegative = Annotated[float, Meta(ge=0, le=FINITE)]
Share = Annotated[float, Meta(ge=0, le=1)]
PositiveShare = Annotated[float, Meta(gt=0, le=1)]
Port = Annotated[int, Meta(ge=0, le=65_533)]
"""The first of three."""
