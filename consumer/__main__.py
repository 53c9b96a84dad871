"""`python -m consumer` is `lmt2 consumer`."""

import sys

from lmt2.cli import main

if __name__ == "__main__":
    main(["consumer", *sys.argv[1:]])
