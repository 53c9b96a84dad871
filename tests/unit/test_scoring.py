"""The rule by which answers are judged, and the questions that are shipped to be judged by it."""

import pytest

from lmt2.data import general
from lmt2.scoring import hit, normalise


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("Paris", "Paris"),
        ("  \n  The answer is PARIS.", "paris"),
        ("They laid 2,140 metres.", "2140"),
        ("They laid 2140 metres.", "2,140"),
        ("12,345,678", "12345678"),
        ("The Skipper’s Arms", "skipper's arms"),
        ("Saint  Withen's\tAbbey", "Saint Withen's Abbey"),
        ("H₂O", "H2O"),
        ("It is 38.", "38"),
        ("(41)", "41"),
        ("at 20:41, from platform 2", "20:41"),
        ("a twenty-one-day loan", "twenty-one"),
        ("Straße", "STRASSE"),
        ("It is called C++.", "C++"),
        ("twenty-five", "25"),
        ("It takes 25 minutes.", "twenty five"),
        ("A century lasts a hundred years.", "100"),
        ("two hundred and five", "205"),
        ("4,300 households", "four thousand three hundred"),
        ("a thousand and one nights", "1001"),
        ("five million", "5 million"),
        ("the seven-year itch", "7"),
        ("2024-05-03", "3 May 2024"),
        ("On May 3rd, 2024, it closed.", "2024-05-03"),
        ("the 3rd of May", "3 May"),
        ("from 3 May 2024 on", "May 3"),
        ("3 May 2024", "2024"),
    ],
)
def test_an_answer_counts_in_any_spelling_of_it(output: str, answer: str) -> None:
    assert hit(output, [answer])


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("", "Paris"),
        ("   \n", "Paris"),
        ("I don't know.\nParis, perhaps.", "Paris"),
        ("Parisian", "Paris"),
        ("forty-one", "one"),
        ("20:41", "41"),
        ("20:41", "20"),
        ("38.6", "38"),
        ("6.38", "38"),
        ("138", "38"),
        ("2,140", "140"),
        ("21,40", "2140"),
        ("3x8", "3.8"),
        ("1924", "1923"),
        ("two hundred", "2"),
        ("two hundred", "two"),
        ("two hundred and five", "5"),
        ("five thousand", "5"),
        ("forty-one", "1"),
        ("one of the best", "1"),
        ("seventeenth", "17"),
        ("nineteen twenty-three", "23"),
        ("nineteen twenty-three", "19"),
        ("13 May", "3 May"),
        ("30 May", "May 3"),
        ("3 May 2024", "3 May 2025"),
        ("2024-05-03", "5 March 2024"),
        ("3 May", "3 May 2024"),
    ],
)
def test_a_part_of_something_longer_does_not_count(output: str, answer: str) -> None:
    assert not hit(output, [answer])


def test_any_one_of_the_accepted_answers_will_do() -> None:
    assert hit("about eleven minutes", ["11", "eleven"])
    assert not hit("about eleven minutes", ["12", "twelve"])
    assert not hit("about eleven minutes", [])


def test_a_long_run_of_numbers_takes_no_long_search() -> None:
    assert not hit("twenty one " * 20_000 + "onex", ["21"])


def test_normalising_twice_changes_nothing() -> None:
    once = normalise("  ‘Ａ’  1,000\u00a0ﬁsh ")
    assert once == "'a' 1000 fish"
    assert normalise(once) == once


def test_no_general_question_gives_its_answer_away() -> None:
    assert [question.q for question in general() if hit(question.q, question.a)] == []


def test_general_questions_are_asked_once() -> None:
    asked = [normalise(question.q) for question in general()]
    assert len(set(asked)) == len(asked)


def test_kinds_are_mixed_so_that_every_second_question_is_a_fair_sample() -> None:
    halves = general()[::2], general()[1::2]
    assert [sum(question.kind == "near" for question in half) for half in halves] == [30, 30]
