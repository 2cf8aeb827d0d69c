"""`python -m morl` is the `morl` command."""

import sys

from morl.cli.main import main

sys.exit(main())
