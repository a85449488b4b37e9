"""`python -m sdcore` is the `sdcore` command."""

import sys

from sdcore.cli import main

sys.exit(main())
