"""Text as it comes: no half characters, no stop string, nothing lost."""

import pytest
from transformers import AutoTokenizer

from lmt2.models.assets import SMOLLM2, model_path
from serving.text import Detokeniser, StopFinder

TEXTS = [
    "Grüße aus 東京 👩‍👩‍👧‍👦! \U0001f469\U0001f3fd‍\U0001f680",
    "  two spaces, then\n\nlines\t",
    "naïve café — “quoted” 🇩🇪",
    "नमस्ते",
]


@pytest.fixture(scope="module")
def tokenizer() -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(model_path(SMOLLM2.name))


@pytest.mark.parametrize("text", TEXTS)
def test_characters_of_several_tokens_come_whole(tokenizer: AutoTokenizer, text: str) -> None:
    characters = Detokeniser(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)))
    pieces = [characters.add(token) for token in tokenizer(text)["input_ids"]]
    assert "".join(pieces) == text
    assert len(pieces) > len(text.split())  # the text did come in pieces
    assert not any("\ufffd" in piece for piece in pieces)
    assert characters.flush() == ""


def test_a_character_that_is_cut_off_at_the_end_is_not_swallowed(tokenizer: AutoTokenizer) -> None:
    characters = Detokeniser(lambda ids: str(tokenizer.decode(ids)))
    half = tokenizer("ok 🦩")["input_ids"][:-1]
    shown = "".join(characters.add(token) for token in half)
    assert shown in {"ok", "ok "}
    assert (shown + characters.flush()).endswith("\ufffd")


def find(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    finder = StopFinder(stops)
    shown = ""
    for piece in pieces:
        shown += finder.add(piece)
        if finder.is_found:
            return shown, True
    return shown + finder.flush(), False


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["one ST", "OP two"], ["STOP"], ("one ", True)),
        (["one S", "T", "O", "P"], ["STOP"], ("one ", True)),
        (["one STO", "NE"], ["STOP"], ("one STONE", False)),
        (["a\n", "\nb"], ["\n\n"], ("a", True)),
        (["aab", "aac"], ["aac"], ("aab", True)),
        (["ababab", "c"], ["ababc"], ("ab", True)),
        (["the end STO"], ["STOP"], ("the end STO", False)),
        (["x<b>y<a>"], ["<a>", "<b>"], ("x", True)),
        (["anything"], [], ("anything", False)),
    ],
)
def test_stop_strings_end_the_text_wherever_tokens_end(
    pieces: list[str], stops: list[str], expected: tuple[str, bool]
) -> None:
    assert find(pieces, stops) == expected


def test_text_that_cannot_become_a_stop_string_is_not_held_back() -> None:
    finder = StopFinder(["STOP"])
    assert finder.add("hello S") == "hello "
    assert finder.add("A") == "SA"
