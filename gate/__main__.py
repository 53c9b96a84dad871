"""`python -m gate` is `lmt2 gate`."""

import sys

from lmt2.cli import main

if __name__ == "__main__":
    main(["gate", *sys.argv[1:]])
