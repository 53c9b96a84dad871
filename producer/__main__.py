"""`python -m producer` is `lmt2 produce`."""

import sys

from lmt2.cli import main

if __name__ == "__main__":
    main(["produce", *sys.argv[1:]])
