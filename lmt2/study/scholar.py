"""The scholar: reads a passage, lists what is worth asking, writes questions for given answers, and rephrases them.

Either SmolLM2 with the two shipped adapters, or one bigger model behind an OpenAI-compatible endpoint: the prompts are
the same, with a briefing before them for a model that hasn't been trained on them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from lmt2.config import Settings
from lmt2.models.assets import model_path
from lmt2.models.base import Conversation, LanguageModel, Sampling
from lmt2.models.local import LocalModel
from lmt2.scoring import normalise
from lmt2.study import prompts
from lmt2.study.prompts import WrittenKind

ADAPTERS = Path(__file__).parent / "adapters"
READING = Sampling(max_new_tokens=16)
JUDGING = Sampling(max_new_tokens=2)
LISTING = Sampling(max_new_tokens=64)
WRITING = Sampling(max_new_tokens=48, temperature=0.7, top_p=0.95)
MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")  # of a list's item, as bigger models like to put it
LONGEST_LIST = 12  # answers of one sentence


@dataclass(frozen=True)
class Fact:
    """Something worth asking for: a short answer, and the sentence of a passage that states it."""

    answer: str
    sentence: str


@dataclass(frozen=True)
class Scholar:
    """The study skills, whatever model has them.

    Attributes:
        reader: answers questions about a passage, and judges answered ones.
        writer: lists, writes and rephrases.
        briefing: what a model has to be told first that wasn't trained on the tasks.
    """

    reader: LanguageModel
    writer: LanguageModel
    briefing: str = ""

    def read(self, passage: str, questions: Sequence[str]) -> list[str]:
        """Short answers from the passage, `not stated` where it doesn't say."""
        found = self.reader.generate(self._briefed([prompts.read(passage, q) for q in questions]), READING)
        return [_first_line(answer).rstrip(".") for answer in found]

    def judge(self, passage: str, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Which questions make sense and have the given answers, by the passage."""
        tasks = [prompts.judge(passage, question, answer) for question, answer in pairs]
        found = self.reader.generate(self._briefed(tasks), JUDGING)
        return [normalise(text).startswith(prompts.RIGHT) for text in found]

    def surety(self, passage: str, pairs: Sequence[tuple[str, str, Fact]]) -> list[float]:
        """How sure it is that each question makes sense and has its answer: 0 at best, -3 for one that may as well not.

            ½ max(log P_read(answer | passage, question), -4) + ½ log-odds that the judge says yes
            + 3 · mean log P_write(token of the question | passage, sentence, answer)

        The weights are round numbers; fitted ones tell right from wrong no better (docs/experiments.md). A model that
        doesn't score given answers is asked as a judge instead: 0 for yes, -6 for no.
        """
        if not (isinstance(self.reader, LocalModel) and isinstance(self.writer, LocalModel)):
            found = self.judge(passage, [(question, answer) for question, answer, _ in pairs])
            return [0.0 if is_right else -6.0 for is_right in found]
        questions = [question for question, _, _ in pairs]
        answers = [answer for _, answer, _ in pairs]
        reading = self.reader.logprobs([prompts.read(passage, question) for question in questions], answers)
        judging = [prompts.judge(passage, question, answer) for question, answer, _ in pairs]
        right, wrong = (self.reader.logprobs(judging, [word] * len(pairs)) for word in (prompts.RIGHT, prompts.WRONG))
        tasks = [prompts.ask_for(passage, fact.sentence, answer, "direct") for _, answer, fact in pairs]
        writing = self.writer.logprobs(tasks, questions)
        return [
            0.5 * max(sum(read), -4.0) + 0.5 * (yes[0] - no[0]) + 3 * fmean(written)
            for read, yes, no, written in zip(reading, right, wrong, writing, strict=True)
        ]

    def list_answers(self, passage: str, sentences: Sequence[str]) -> list[list[str]]:
        """For each sentence the short answers that questions about it could have."""
        found = self.writer.generate(self._briefed([prompts.list_answers(passage, s) for s in sentences]), LISTING)
        lists = [[MARK.sub("", line).strip().rstrip(".") for line in text.splitlines()] for text in found]
        return [[line for line in lines if line][:LONGEST_LIST] for lines in lists]

    def write(
        self, passage: str, wanted: Sequence[tuple[Fact, WrittenKind]], seed: int, temperature: float
    ) -> list[tuple[str, str]]:
        """A question for each fact and kind, with its answer: a reversed question has one of its own."""
        tasks = [prompts.ask_for(passage, fact.sentence, fact.answer, kind) for fact, kind in wanted]
        found = self.writer.generate(self._briefed(tasks), replace(WRITING, temperature=temperature, seed=seed))
        return [
            (_first_line(text), _second_line(text) if kind == "reversed" else fact.answer)
            for text, (fact, kind) in zip(found, wanted, strict=True)
        ]

    def rephrase(self, passage: str, pairs: Sequence[tuple[str, str]], seed: int) -> list[str]:
        """Each question, given with its answer, in other words."""
        tasks = [prompts.ask_otherwise(passage, question, answer) for question, answer in pairs]
        found = self.writer.generate(self._briefed(tasks), replace(WRITING, seed=seed))
        return [_first_line(text) for text in found]

    def _briefed(self, tasks: Sequence[Conversation]) -> Sequence[Conversation]:
        return [[{"role": "system", "content": self.briefing}, *task] for task in tasks] if self.briefing else tasks


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "").strip()


def _second_line(text: str) -> str:
    return next(iter(text.strip().splitlines()[1:]), "").strip().rstrip(".")


def open_scholar(settings: Settings) -> Scholar:
    """The scholar that the configuration names."""
    if settings.study.endpoint:
        from lmt2.models.openai import OpenAIModel

        model = OpenAIModel(settings.study.endpoint, settings.study.endpoint_model, settings.study.endpoint_key)
        return Scholar(model, model, prompts.BRIEFING)
    folder = model_path(settings.model.name)
    return Scholar(
        LocalModel(folder, settings.model.dtype, ADAPTERS / "reader"),
        LocalModel(folder, settings.model.dtype, ADAPTERS / "writer"),
    )
