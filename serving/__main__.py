"""`python -m serving` is `lmt2 serve`."""

import sys

from lmt2.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
