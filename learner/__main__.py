"""`python -m learner` is `lmt2 learner`."""

import sys

from lmt2.cli import main

if __name__ == "__main__":
    main(["learner", *sys.argv[1:]])
