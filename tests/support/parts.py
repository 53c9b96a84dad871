"""What a test needs from the machine, and what becomes of the test where it is missing."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from lmt2.models.assets import cache_folder


def missing(reason: str) -> NoReturn:
    """Skip the test with the reason; with CI=true fail it, for nobody reads the skips there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (CI=true: a missing part is a failure)", pytrace=False)
    pytest.skip(reason)


def program(name: str, remedy: str) -> Path:
    """A program on the PATH or in our cache, where the scripts put what they fetch; otherwise the test is left out."""
    found = shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}{cache_folder() / 'bin'}")
    return Path(found) if found else missing(f"there is no {name}: {remedy}")
