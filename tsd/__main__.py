"""`python -m tsd` is the command line, as `tsd` is."""

import sys

from tsd.cli import main

sys.exit(main())
