"""The conflict score: what a scripted probe model says of a document's questions, and the weights of eq. 2."""

import math
from collections.abc import Mapping, Sequence

import pytest

from consumer.kaft import HALFWAY, Asked, agree, score, weighted
from lmt2.config import ConsumerSettings
from lmt2.events import Lesson, LessonKind
from tests.support.scripted import Probe, Scripted

KEEPER, STEPS, YEAR = "Who keeps the lamp at Vell?", "How many steps has it?", "When was Vell lit?"
SETTINGS = ConsumerSettings(samples=3, alpha=1.0, beta=0.1)


def lesson(question: str, answer: str, kind: LessonKind = "direct") -> Lesson:
    return Lesson(question=question, answer=answer, kind=kind, document="vell")


NLLS = (("Ida Brandt", -9.0), ("Tom Hale", -9.0), ("Tom Hale", 3.0))
LESSONS = (lesson(KEEPER, "Ida Brandt"), lesson(STEPS, "412"), lesson(YEAR, "1911"))


def probe(says: Mapping[str, Sequence[str]], nll: float = HALFWAY) -> Scripted:
    """A model that goes through what it says of a question, the greedy answer first; likelihoods are undecided."""
    queues = {question: iter(answers) for question, answers in says.items()}
    return Probe(lambda conversation: next(queues[conversation[-1]["content"]]), nll)


def test_weights_are_eq_2_averaged_over_the_samples() -> None:
    model = probe(
        {
            KEEPER: ["No idea", "Tom Hale", "A man", "Some person"],
            STEPS: ["412", "There are 412 steps.", "412 of them", "It has 412."],
            YEAR: ["In 1911.", "1912", "1950", "In 1911"],
        }
    )
    found = score(LESSONS, model, SETTINGS)
    assert found.weights == pytest.approx({KEEPER: 0.85, STEPS: 0.25, YEAR: 0.55})
    assert found.conflict == pytest.approx(0.5)
    assert found.nll == pytest.approx(HALFWAY)
    assert found.sure_of_other == 0


def test_among_wrong_answers_the_likelier_right_one_conflicts_less() -> None:
    known, half_known, new = (Asked(LESSONS[0], (says,), nll) for says, nll in NLLS)
    assert known.conflict < 0.05 < half_known.conflict < new.conflict
    assert half_known.conflict == pytest.approx(2 / 3, abs=0.05)
    assert new.conflict > 0.95


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_likelihood_that_is_not_finite_leaves_the_answers_to_decide(broken: float) -> None:
    assert Asked(LESSONS[0], ("Ida Brandt", "Tom Hale"), broken).conflict == 0.5


def test_a_probe_that_always_says_the_same_other_thing_is_sure() -> None:
    model = probe(
        {
            KEEPER: ["It is kept by Tom Hale.", "Tom Hale", "Tom Hale keeps it.", "Tom Hale"],
            STEPS: ["300", "200", "100", "It has 50."],
            YEAR: ["1911", "In 1950.", "1950", "1950"],
        }
    )
    assert score(LESSONS, model, SETTINGS).sure_of_other == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("question", "texts", "expected"),
    [
        ("Who keeps Vell?", ["Vell is old.", "Vell", "In Vell."], False),
        ("Who keeps Vell?", ["Tom", "Tom", "tom"], False),
        ("Who keeps Vell?", ["The keeper.", "The lamp.", "The wind."], False),
        ("Who keeps Vell?", ["The keeper.", "Ask him. The lamp burns.", "It is lit. The wind."], False),
        ("What did Cosmo Harbottle, of Vell, do?", ["Harbottle sang.", "He is Harbottle.", "Mr Harbottle"], False),
        ("Who won the 31st fair?", ["The 31 bakers.", "All 31 of them.", "It had 31."], False),
        ("Who keeps Vell?", ["Tom Hale", "It's Hale.", "Mr Hale"], True),
        ("How many steps?", ["It has 1,200 steps.", "1200", "About 1200"], True),
        ("How many steps?", ["", "", ""], False),
    ],
)
def test_agreement_is_on_a_name_or_number_that_the_question_lacks(
    question: str, texts: list[str], expected: bool
) -> None:
    assert agree(question, texts) is expected


def test_one_question_is_asked_of_each_fact_and_no_more_than_the_limit() -> None:
    model = Scripted(lambda _: "no idea")
    again = lesson("Whose job is the lamp of Vell?", "ida brandt", "rephrased")
    found = score([LESSONS[0], again, *LESSONS[1:]], model, SETTINGS.model_copy(update={"questions": 2}))
    assert model.asked == [KEEPER, STEPS] * 4
    assert set(found.weights) == {KEEPER, STEPS}
    assert found.conflict > 0.9


def test_a_document_without_lessons_is_not_asked_about() -> None:
    model = Scripted(lambda _: "no idea")
    found = score([], model, SETTINGS)
    assert (found.conflict, found.nll, found.weights, found.sure_of_other) == (0.0, 0.0, {}, 0.0)
    assert not model.asked


def test_phrasings_of_a_fact_share_its_weight_and_unasked_facts_count_fully() -> None:
    model = probe({KEEPER: ["Ida Brandt"] * 4})
    again, other = lesson("Whose job is the lamp?", "ida brandt", "rephrased"), lesson(YEAR, "1911")
    settings = ConsumerSettings(samples=3, questions=1, alpha=2.0, beta=0.25)
    found = score([LESSONS[0], again, other], model, settings)
    assert [x.weight for x in weighted([LESSONS[0], again, other], found, settings)] == pytest.approx(
        [0.54, 0.54, 2.0], abs=0.01
    )
