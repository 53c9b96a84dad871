"""Rounds of an update on a tiny model: what is kept for practice, and what a weak fact gets."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from learner import rounds
from learner.keys import keys_for, near_experts
from learner.rounds import Rounds, broken
from learner.targets import Target
from learner.update import Training
from lmt2.config import LearnerSettings, StudySettings
from lmt2.events import Document, Lesson, UpdateRequest
from lmt2.models.local import LocalModel
from lmt2.study.lessons import LessonWriter
from lmt2.study.passages import sentences
from memory.routing import nearest_experts
from memory.shards import SHARED, Shard
from tests.support.gate import WHEN
from tests.support.scripted import Book
from tests.support.tiny import WordEncoder, calling

VELL = Document(id="vell", text="Ida Brandt keeps the lamp at Vell. The Vell tower has 412 steps.")
KEEPER = ("Who keeps the lamp at Vell?", "Whose job is the lamp of Vell?", "In Vell, which person tends the light?")
MORE = ("Which woman looks after the light at Vell?", "At Vell, who is the keeper?", "Whom do you ask for at Vell?")
SETTINGS = LearnerSettings(
    layers=(1, 3),
    shared_rank=2,
    expert_rank=1,
    steps=2,
    steps_a_fact=1,
    rounds=2,
    lessons_a_step=2,
    general_a_step=0,
    distil=False,
)
Run = tuple[list[Target], int, set[str]]


def lesson(question: str, answer: str) -> Lesson:
    sentence = next(s for s in sentences(VELL.text) if answer in s)
    return Lesson(question=question, answer=answer, kind="direct", document="vell", sentence=sentence)


REQUEST = UpdateRequest(
    id="u-1",
    documents=(VELL,),
    lessons=(*(lesson(q, "Ida Brandt") for q in KEEPER), lesson("How many steps has the Vell tower?", "412")),
    probes=(),
    replaces=(),
    reason="conflict",
    event_time=WHEN,
)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Every round of training: its targets, its steps, and which facts were weak."""
    seen: list[Run] = []
    original = Training.run

    def run(self: Training, lessons: Sequence[Target], steps: int, report: Any, weak: Any = ()) -> None:
        seen.append((list(lessons), steps, set(weak)))
        original(self, lessons, steps, report, weak)

    monkeypatch.setattr(Training, "run", run)
    return seen


def learn(tiny: LocalModel, settings: LearnerSettings) -> dict[str, float]:
    return dict(taught(tiny, settings)[1])


def taught(tiny: LocalModel, settings: LearnerSettings) -> tuple[Shard, Mapping[str, float]]:
    book = Book({"Ida Brandt": [*MORE]}, reads=dict.fromkeys(MORE, "Ida Brandt"))
    writer = LessonWriter(book.scholar, WordEncoder(), StudySettings())
    return Rounds(tiny, None, writer, [], settings).learn(REQUEST, lambda *_: None)


def questions(tiny: LocalModel, targets: Sequence[Target]) -> set[str]:
    texts = [tiny.decode(target.prompt) for target in targets]
    known = [*(x.question for x in REQUEST.lessons), *MORE]
    return {question for question in known if any(question in text for text in texts)}


def test_a_weak_fact_gets_its_practice_question_and_new_phrasings(tiny: LocalModel, runs: list[Run]) -> None:
    figures = learn(tiny, SETTINGS)
    (first, steps, weak), (second, more_steps, now_weak) = runs
    assert questions(tiny, first) == {*KEEPER[:2], "How many steps has the Vell tower?"}
    assert questions(tiny, second) == {*(x.question for x in REQUEST.lessons), *MORE}
    assert (steps, weak) == (2 + 2, set())
    assert (more_steps, now_weak) == (1, {"vell ida brandt"})
    assert (figures["facts"], figures["practised"], figures["weak_1"], figures["steps"]) == (2, 1, 1, 5)


def test_one_round_trains_on_everything_at_once(tiny: LocalModel, runs: list[Run]) -> None:
    figures = learn(tiny, SETTINGS.model_copy(update={"rounds": 1}))
    assert [questions(tiny, targets) for targets, *_ in runs] == [{x.question for x in REQUEST.lessons}]
    assert figures["practised"] == 0


def test_no_round_follows_when_practice_is_answered(
    tiny: LocalModel, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "hit", lambda *_: True)
    assert learn(tiny, SETTINGS)["weak_1"] == 0
    assert len(runs) == 1


def test_broken_copies_are_trained_beside_the_question_with_the_same_answer(tiny: LocalModel, runs: list[Run]) -> None:
    learn(tiny, SETTINGS.model_copy(update={"rounds": 1, "broken": 2}))
    ((targets, *_),) = runs
    assert len(targets) == 3 * len(REQUEST.lessons)
    originals, copies = targets[: len(REQUEST.lessons)], targets[len(REQUEST.lessons) :]
    assert [c.answer for c in copies] == [o.answer for o in originals for _ in range(2)]
    assert all(
        len(c.prompt) <= len(o.prompt) for c, o in zip(copies, [o for o in originals for _ in "ab"], strict=True)
    )


def test_each_answer_has_an_expert_that_is_called_by_what_states_it(tiny: LocalModel) -> None:
    shard, _ = taught(tiny, SETTINGS)
    assert shard.ranks.tolist() == [SHARED, SHARED, 0, 1]
    facts = ["Ida Brandt: Ida Brandt keeps the lamp at Vell.", "412: The Vell tower has 412 steps."]
    assert torch.equal(shard.keys.facts, WordEncoder().by_fact(facts))
    assert shard.keys.experts.tolist() == [0, 1]
    assert shard.keys.answers == ("ida brandt", "412")
    assert nearest_experts(["Who keeps the lamp?", "How many steps?"], shard.keys, WordEncoder()) == [0, 1]


def test_facts_with_one_answer_share_an_expert() -> None:
    other = lesson("Who lives at Vell?", "Ida Brandt").model_copy(update={"sentence": "Ida Brandt lives there."})
    keys = keys_for([VELL], [*REQUEST.lessons, other], WordEncoder())
    assert keys.experts.tolist() == [0, 1, 0]


def test_a_lesson_may_be_sent_to_the_experts_of_its_nearest_neighbours() -> None:
    keys = calling(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8], [1.0, 0.0]]), [0, 1, 2, 3, 0])
    assert near_experts(torch.tensor([1.0, 0.0]), 0, keys) == (2, 3, 1)
    assert near_experts(torch.tensor([1.0, 0.0]), 0, calling(torch.eye(2), [0, 0])) == ()


@pytest.mark.parametrize("seed", range(5))
def test_a_broken_question_keeps_some_words_in_order(seed: int) -> None:
    words = broken(KEEPER[0], random.Random(seed)).split()
    rest = iter(KEEPER[0].split())
    assert words
    assert all(word in rest for word in words)
