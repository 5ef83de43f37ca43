"""``python -m mashbill``: the command, for where it is not on the path."""

import sys

from mashbill.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
