"""`python -m tokenfleet`: the `tokenfleet` command."""

import sys

from tokenfleet.cli import main

if __name__ == "__main__":
    sys.exit(main())
