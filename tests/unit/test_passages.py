"""Passages: a document in pieces that a small model can read at once, none of it lost."""

from itertools import pairwise

import pytest

from lmt2.events import Document
from lmt2.study.passages import WORDS, passages, sentences

LONG = " ".join(f"Sentence number {n} of the long story ends here." for n in range(60))


def test_a_short_text_is_one_passage_without_its_title() -> None:
    assert passages(Document(id="a", title="Vell", text="It has a lamp. It is old.")) == ["It has a lamp. It is old."]


def test_a_long_text_keeps_every_sentence_and_repeats_one_at_each_seam() -> None:
    parts = [sentences(passage) for passage in passages(Document(id="a", text=LONG))]
    assert len(parts) == 4
    assert [sentence for n, part in enumerate(parts) for sentence in part[1 if n else 0 :]] == sentences(LONG)
    assert all(after[0] == before[-1] for before, after in pairwise(parts))
    assert all(sum(len(sentence.split()) for sentence in part) <= WORDS for part in parts)


def test_each_of_several_passages_carries_the_title() -> None:
    assert all(
        passage.startswith("The story\n\n") for passage in passages(Document(id="a", title="The story", text=LONG))
    )


def test_a_table_is_read_out_so_that_each_row_stands_alone() -> None:
    table = "| Boat | To | At |\n|:--|---|--:|\n| Marabel | Vondra | 7.50 |\n| Brindle | | 21.15 |"
    (passage,) = passages(Document(id="a", text=f"Boats of Kesh Pier.\n\n{table}\n\nDogs ride free."))
    assert sentences(passage) == [
        "Boats of Kesh Pier.",
        "Boat: Marabel; To: Vondra; At: 7.50.",
        "Boat: Brindle; At: 21.15.",
        "Dogs ride free.",
    ]


def test_a_passage_goes_on_under_its_heading() -> None:
    second = passages(Document(id="a", title="Vell", text=f"# The lamp\n{LONG}"))[1]
    assert second.startswith("Vell\n\n# The lamp\nSentence number ")


def test_a_sentence_longer_than_a_passage_stays_whole() -> None:
    giant = "Words " * (2 * WORDS) + "end."
    assert passages(Document(id="a", text=f"Before it. {giant} After it.")) == [
        "Before it.",
        f"Before it. {giant}",
        f"{giant} After it.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It costs £4.50. Dr. Ames paid.", ["It costs £4.50.", "Dr. Ames paid."]),
        ("# Title\n\n- one\n- two\n", ["# Title", "- one", "- two"]),
        ("“Who?” asked Ann. ‘Nobody.’", ["“Who?” asked Ann.", "‘Nobody.’"]),
        ("At 9 a.m. it opens. 12 came.", ["At 9 a.m. it opens.", "12 came."]),
        ("no end", ["no end"]),
        ("  \n ", []),
    ],
)
def test_where_a_sentence_ends(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected
