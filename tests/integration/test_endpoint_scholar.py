"""All study skills through an endpoint, with a real vLLM server: the shipped adapters stand in for a bigger model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.structuring import structure
from lmt2.config import Settings, StudySettings
from lmt2.events import Document
from lmt2.models.assets import model_path
from lmt2.study.lessons import LessonWriter, stands_in
from lmt2.study.prompts import NOT_STATED
from lmt2.study.scholar import ADAPTERS, Fact, Scholar, open_scholar
from tests.support.tiny import WordEncoder
from tests.support.vllm import vllm_server

pytestmark = [pytest.mark.vllm, pytest.mark.model]

SENTENCE = "The Vell lighthouse was built in 1911 by the engineer Ida Brandt and has 412 steps."
PASSAGE = f"{SENTENCE} Its keeper, Tom Hale, lives in the old customs house."


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    adapters = [f"{name}={ADAPTERS / name}" for name in ("reader", "writer")]
    with vllm_server(model_path("smollm2-135m-instruct"), "base", "--lora-modules", *adapters) as address:
        yield address


def scholar(server: str, model: str) -> Scholar:
    study = StudySettings(endpoint=f"{server}/v1", endpoint_model=model)
    return open_scholar(Settings(home=Path("unused"), study=study))


def test_a_served_model_reads(server: str) -> None:
    found = scholar(server, "reader").read(PASSAGE, ["Who is the keeper of the Vell lighthouse?", "Who runs Corvo?"])
    assert stands_in("Tom Hale", found[0])
    assert found[1].casefold() == NOT_STATED


def test_a_served_model_lists_writes_and_rephrases(server: str) -> None:
    writer = scholar(server, "writer")
    (answers,) = writer.list_answers(PASSAGE, [SENTENCE])
    assert any(stands_in(answer, SENTENCE) for answer in answers)
    fact = Fact("412", SENTENCE)
    questions = writer.write(PASSAGE, [(fact, "direct"), (fact, "composed")], seed=0, temperature=0.0)
    assert all(question.endswith("?") and answer == "412" for question, answer in questions)
    (other,) = writer.rephrase(PASSAGE, [("How many steps has the Vell lighthouse?", "412")], seed=0)
    assert other.endswith("?")


def test_a_document_is_structured_through_an_endpoint_alone(server: str) -> None:
    reader, writer = scholar(server, "reader"), scholar(server, "writer")
    both = Scholar(reader.reader, writer.writer, reader.briefing)
    skilled = LessonWriter(both, WordEncoder(), StudySettings(rounds=1, answers=4))
    found = structure(Document(id="vell", text=PASSAGE), skilled)
    assert found.facts >= 2
    assert all(stands_in(lesson.answer, PASSAGE) for lesson in found.lessons)
