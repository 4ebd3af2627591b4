"""`python -m experiments`: the command line without an installed console script."""

import sys

from experiments.command_line import main

sys.exit(main())
