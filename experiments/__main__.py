"""`python -m experiments`: the command line without an installed console script."""

import sys

from experiments.entry import main

sys.exit(main())
