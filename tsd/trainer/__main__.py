"""`python -m tsd.trainer` is one trainer process."""

import sys

from tsd.trainer.trainer import main

sys.exit(main())
