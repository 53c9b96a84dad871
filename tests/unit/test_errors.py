import builtins
import inspect
import re

import pytest

from lmt2 import errors
from lmt2.errors import LMT2Error

ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


def test_all_errors_grow_from_one_root() -> None:
    assert all(issubclass(kind, LMT2Error) for kind in ERRORS)


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    drawn = re.findall(r"(\w+) \((\w+)\)", errors.__doc__ or "")
    assert {name for name, _ in drawn} | {"LMT2Error", "ModelError"} == {kind.__name__ for kind in ERRORS}
    for name, kin in drawn:
        assert issubclass(getattr(errors, name), getattr(builtins, kin))


@pytest.mark.parametrize("kind", ERRORS)
def test_a_message_is_kept_as_it_is(kind: type[LMT2Error]) -> None:
    assert str(kind("what happened; what to do")) == "what happened; what to do"
