"""`python -m anyregion`, the same as `anyregion`."""

import sys

from anyregion.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
