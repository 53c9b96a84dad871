"""The reference of settings follows the code."""

from pathlib import Path

from lmt2.reference import reference

FILE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_reference_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == reference(), "run `python -m lmt2.reference > docs/configuration.md`"
