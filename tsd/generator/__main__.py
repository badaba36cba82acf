"""`python -m tsd.generator` is one generator process."""

import sys

from tsd.generator.generator import main

sys.exit(main())
