"""``python -m kmn.cli``: the same as ``kmn``."""

import sys

from kmn.cli.main import main

sys.exit(main())
