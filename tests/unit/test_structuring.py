"""Structuring: of what a scholar lists and writes, only checked questions become lessons, and probes stay unseen."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from consumer.structuring import Structured, structure
from lmt2.config import StudySettings
from lmt2.events import Document, QuestionAnswer
from lmt2.scoring import normalise
from lmt2.study.lessons import DOUBTFUL, LessonWriter, is_well_formed, same_answer
from lmt2.study.passages import passages
from lmt2.study.prompts import NOT_STATED
from lmt2.study.scholar import Scholar
from tests.support.scripted import Book, Scripted
from tests.support.tiny import WordEncoder

TEXT = "Ida Brandt keeps the lamp at Vell. The Vell lighthouse has 412 steps. It was lit in 1911 by Tom Hale."
KEEPER = (
    "Who keeps the lamp at Vell?",
    "Whose job is the lamp of Vell?",
    "In Vell, which person tends the light?",
)
STEPS = (
    "How many steps has the Vell lighthouse?",
    "At the lighthouse of Vell, what do you climb?",
    "The stairs of Vell consist of how many steps?",
)


def study(
    writes: Mapping[str, Sequence[str]],
    reads: Mapping[str, str] | None = None,
    text: str = TEXT,
    **settings: float,
) -> tuple[Structured, Book]:
    book = Book(writes, reads)
    chosen = StudySettings.model_validate({"probes": 0, "rounds": 1, **settings})
    return structure(Document(id="vell", text=text), LessonWriter(book.scholar, WordEncoder(), chosen)), book


def questions(found: Structured) -> set[str]:
    return {lesson.question for lesson in found.lessons}


def test_every_checked_question_becomes_a_lesson() -> None:
    found, book = study({"Ida Brandt": KEEPER, "412": STEPS})
    assert questions(found) == {*KEEPER, *STEPS}
    assert {lesson.answer for lesson in found.lessons if lesson.question in KEEPER} == {"Ida Brandt"}
    assert {lesson.fact for lesson in found.lessons} == {"0.0 ida brandt", "0.1 412"}
    asked = Counter(task.rsplit("Write a question ", 1)[-1] for task in book.writer.asked if "Answer: 412" in task)
    assert asked == {"(direct).": 5, "(composed).": 2, "(reversed).": 2}
    assert {lesson.document for lesson in found.lessons} == {"vell"}
    assert (found.facts, found.covered, found.left_out) == (2, 2, 0)


def test_a_listed_fact_without_a_checked_question_is_taught_by_its_sentence_with_a_gap() -> None:
    found, _ = study({"Ida Brandt": KEEPER, "412": [STEPS[0]]}, reads={STEPS[0]: "not stated"})
    gaps = {(x.question, x.answer): x for x in found.gaps}
    gap = gaps["The Vell lighthouse has ___ steps.", "412"]
    assert (gap.kind, gap.sentence, gap.fact, gap.weight) == (
        "gap",
        "The Vell lighthouse has 412 steps.",
        "0.1 412",
        DOUBTFUL,
    )
    assert "Ida Brandt" not in {x.answer for x in found.gaps}
    assert found.facts == 1, "it doesn't count as supported"


def test_a_reversed_question_has_an_answer_of_its_own() -> None:
    book = Book({}, reads={"What does Ida Brandt keep at Vell?": "the lamp"})
    book.writer = Scripted(lambda task: "What does Ida Brandt keep at Vell?\nThe lamp." if "(rev" in str(task) else "")
    writer = LessonWriter(Scholar(book.reader, book.writer), WordEncoder(), StudySettings(rounds=1))
    found = structure(Document(id="vell", text=TEXT), writer)
    assert {(x.kind, x.answer) for x in found.lessons} == {("reversed", "The lamp")}


def test_what_the_reader_does_not_confirm_is_dropped() -> None:
    reads = {KEEPER[0]: "Tom Hale", KEEPER[2]: NOT_STATED, STEPS[1]: "", STEPS[2]: "412 steps"}
    found, _ = study({"Ida Brandt": KEEPER, "412": STEPS}, reads)
    assert questions(found) == {KEEPER[1], STEPS[0], STEPS[2]}


def test_what_the_judge_does_not_find_right_weighs_less_and_is_no_exam() -> None:
    book = Book({"Ida Brandt": KEEPER}, unsound=KEEPER[1:])
    writer = LessonWriter(book.scholar, WordEncoder(), StudySettings(rounds=1))
    found = structure(Document(id="vell", text=TEXT), writer)
    weights = {lesson.question: lesson.weight for lesson in (*found.lessons, *found.probes)}
    assert weights == {KEEPER[0]: 1.0, KEEPER[1]: DOUBTFUL, KEEPER[2]: DOUBTFUL}
    assert not {probe.question for probe in found.probes} & set(KEEPER[1:])


def test_what_is_known_without_the_passage_is_not_learnt_from_it() -> None:
    book = Book({"Ida Brandt": KEEPER})
    book.reader = Scripted(lambda task: "yes" if task[0]["content"].endswith("right?") else "Ida Brandt")
    writer = LessonWriter(Scholar(book.reader, book.writer), WordEncoder(), StudySettings(rounds=1))
    assert not structure(Document(id="vell", text=TEXT), writer).lessons


@pytest.mark.parametrize(
    "question",
    [
        "Who keeps the lamp in this text?",
        "According to the passage, who is at Vell?",
        "Who keeps the lamp up there?",
        "Who else but Ida Brandt keeps it at Vell?",
        "Who at Vell?",
        "Ida keeps the lamp at Vell.",
        "Who keeps the\nlamp at Vell?",
        "Who keeps the lamp at Corvo?",
    ],
)
def test_questions_that_cannot_stand_alone_are_dropped(question: str) -> None:
    found, book = study({"Ida Brandt": [question, question, question]})
    assert not found.lessons
    assert not book.reader.asked, "there is nothing for the reader to check"
    assert not is_well_formed(question.splitlines()[0], "Ida Brandt", TEXT)


def test_nearly_equal_questions_count_once() -> None:
    found, _ = study({"Ida Brandt": [KEEPER[0], "who keeps the lamp at Vell ?", KEEPER[1]]})
    assert questions(found) == {KEEPER[0], KEEPER[1]}


def test_a_second_round_asks_only_for_facts_with_too_few_phrasings() -> None:
    more = ("Which man lit the lamp at Vell?", "By whom was the Vell lamp first lit?", "Whose hand lit Vell in 1911?")
    first_round = ["Tom?", "Tom??", "Who lit this text?", *["Tom?"] * 4]
    found, book = study({"Ida Brandt": KEEPER, "Tom Hale": [*first_round, *more]}, rounds=2)
    wanted = [task for task in book.writer.asked if "Write a question (direct)" in task]
    assert sum("Answer: Ida Brandt" in task for task in wanted) == 5
    assert sum("Answer: Tom Hale" in task for task in wanted) == 8
    assert questions(found) == {*KEEPER, *more}


def test_confirmed_questions_are_put_in_other_words() -> None:
    more = ("Whose lamp is it at Vell?", "At Vell, who looks after the lamp?")
    found, _ = study({"Ida Brandt": [*KEEPER, *["Ida?"] * 4, *more]}, rounds=2, phrasings=5)
    assert questions(found) == {*KEEPER, *more}
    assert {lesson.kind for lesson in found.lessons if lesson.question in more} == {"rephrased"}


def test_only_the_surest_phrasings_of_a_fact_are_kept() -> None:
    book = Book({"Ida Brandt": [*STEPS, *KEEPER], "412": ["How many steps are there?"]}, unsound=STEPS)
    writer = LessonWriter(book.scholar, WordEncoder(), StudySettings(rounds=1, phrasings=3, probes=0))
    found = structure(Document(id="vell", text=TEXT), writer)
    assert questions(found) == {*KEEPER}


def test_a_budget_that_ends_leaves_passages_out_and_says_so() -> None:
    text = "\n\n".join(f"{TEXT} The Vell ferry waits for guest number {n}." * 8 for n in range(3))
    found, book = study({"Ida Brandt": KEEPER}, text=text, seconds=1e-9)
    assert (found.lessons, found.left_out) == ((), len(passages(Document(id="vell", text=text))))
    assert not book.writer.asked


def shares_no_question(found: Structured) -> bool:
    asked = [normalise(pair.question) for pair in (*found.lessons, *found.probes)]
    return len(asked) == len(set(asked))


def test_a_probe_is_a_phrasing_that_no_lesson_has() -> None:
    found, _ = study({"Ida Brandt": KEEPER, "412": STEPS}, probes=10)
    assert {probe.question for probe in found.probes} == {KEEPER[2], STEPS[2]}
    assert questions(found) == {*KEEPER[:2], *STEPS[:2]}
    assert shares_no_question(found)


def test_a_document_of_few_facts_gives_two_phrasings_of_one() -> None:
    more = ("Whose lamp is it at Vell?", "At Vell, who looks after the lamp?")
    found, _ = study({"Ida Brandt": [*KEEPER, *more], "412": STEPS}, probes=10, phrasings=5)
    assert [probe.answer for probe in found.probes] == ["Ida Brandt", "412", "Ida Brandt"]
    assert {len([x for x in found.lessons if x.answer == answer]) for answer in ("Ida Brandt", "412")} == {3, 2}
    few, _ = study({"Ida Brandt": [*KEEPER, *more], "412": STEPS}, probes=2, phrasings=5)
    assert len(few.probes) == 2


def test_no_more_probes_than_asked_for_and_none_of_a_thin_fact() -> None:
    found, _ = study({"Ida Brandt": KEEPER, "412": STEPS}, probes=1)
    assert len(found.probes) == 1
    thin, _ = study({"Ida Brandt": KEEPER, "412": STEPS[:2]}, probes=10)
    assert [probe.answer for probe in thin.probes] == ["Ida Brandt"]


def test_a_question_that_asks_for_two_facts_is_no_probe_of_either() -> None:
    """The reader's "Ida Brandt" agrees with "Ida Brandt" and with "Brandt"."""
    shorter = ["Which family keeps the lamp at Vell?", "What is the surname at the Vell lamp?", KEEPER[2]]
    reads = dict.fromkeys([*KEEPER, *shorter], "Ida Brandt")
    found, _ = study({"Ida Brandt": KEEPER, "Brandt": shorter}, reads, probes=10)
    assert {probe.answer for probe in found.probes} <= {"Ida Brandt", "Brandt"}
    assert shares_no_question(found)
    assert not {probe.question for probe in found.probes} & set(questions(found))


def test_passages_that_overlap_give_no_probe_away() -> None:
    padding = " ".join(f"The ferry to Vell waits for guest number {n}." for n in range(17))
    text = f"{padding} Ida Brandt keeps the lamp at Vell. {padding}"
    document = Document(id="vell", text=text)
    assert sum("Ida Brandt" in passage for passage in passages(document)) == 2
    found, _ = study({"Ida Brandt": KEEPER}, text=text, probes=10)
    assert questions(found) == set(KEEPER[:2])
    assert [probe.question for probe in found.probes] == [KEEPER[2]]


def test_ready_made_pairs_are_lessons_as_they_are() -> None:
    given = (QuestionAnswer(question="Keeper?", answer="Ida Brandt"), QuestionAnswer(question="Steps", answer="412"))
    book = Book({"Ida Brandt": KEEPER, "412": ["Steps", STEPS[0], STEPS[1]]})
    writer = LessonWriter(book.scholar, WordEncoder(), StudySettings(probes=10))
    found = structure(Document(id="vell", text=TEXT, qa=given), writer)
    assert [(pair.question, pair.answer, pair.kind) for pair in found.lessons][:2] == [
        ("Keeper?", "Ida Brandt", "given"),
        ("Steps", "412", "given"),
    ]
    assert {probe.answer for probe in found.probes} <= {"Ida Brandt", "412"}
    assert shares_no_question(found)


@pytest.mark.parametrize("text", ["zx qwv ,,, lkj", "…", "aaaa " * 2000, "\u200b", "?\n?\n?"])
def test_a_text_without_facts_yields_nothing_and_ends(text: str) -> None:
    found, _ = study({"Ida Brandt": KEEPER}, text=text, rounds=3)
    assert (found.lessons, found.probes, found.facts) == ((), (), 0)


def test_answers_worth_asking_for_stand_in_their_sentence() -> None:
    lists = {"Ida Brandt keeps": ["ida brandt", "412"], "The Vell light": ["412", "1911", "has 412 " * 5]}
    book = Book({})
    book.writer = Scripted(lambda task: next(("\n".join(v) for k, v in lists.items() if f"e: {k}" in str(task)), ""))
    found = LessonWriter(Scholar(book.reader, book.writer), WordEncoder(), StudySettings()).find_facts(TEXT)
    assert [fact.answer for fact in found[:2]] == ["ida brandt", "412"]
    assert {"Tom Hale", "1911"} <= {fact.answer for fact in found}
    assert "Ida Brandt" not in {fact.answer for fact in found}, "the same answer once"
    assert all(fact.answer.casefold() in fact.sentence.casefold() for fact in found)
    few = LessonWriter(Scholar(book.reader, book.writer), WordEncoder(), StudySettings(answers=1)).find_facts(TEXT)
    assert [fact.answer for fact in few] == ["ida brandt"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Ida Brandt", "Brandt", True),
        ("brandt", "Ida Brandt", True),
        ("1,911", "1911", True),
        ("Ida Brandt", "Tom Hale", False),
        ("41", "412", False),
        ("", "Ida", False),
        ("Not stated", "Not stated", False),
    ],
)
def test_answers_are_compared_by_whole_words(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same
