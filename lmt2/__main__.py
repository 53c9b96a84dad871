"""`python -m lmt2` is `lmt2`."""

from lmt2.cli import main

if __name__ == "__main__":
    main()
