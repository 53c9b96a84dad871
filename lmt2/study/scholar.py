"""The scholar: reads a passage, lists what is worth asking, and writes questions for given answers.

Either SmolLM2 with the two shipped adapters, or one bigger model behind an OpenAI-compatible endpoint; the
prompts are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmt2.config import Settings
from lmt2.models.assets import model_path
from lmt2.models.base import LanguageModel, Sampling
from lmt2.models.local import LocalModel
from lmt2.study import prompts
from lmt2.study.prompts import QuestionKind

ADAPTERS = Path(__file__).parent / "adapters"
READING = Sampling(max_new_tokens=16)
LISTING = Sampling(max_new_tokens=160, temperature=0.9, top_p=0.95)
WRITING = Sampling(max_new_tokens=40, temperature=0.7, top_p=0.95)
REMEMBERED = 14  # answers of the list that stay in front of the writer, as many as a list in training has


@dataclass(frozen=True)
class Scholar:
    """The study skills, whatever model has them."""

    reader: LanguageModel
    writer: LanguageModel

    def read(self, passage: str, questions: Sequence[str]) -> list[str]:
        """Short answers from the passage, `not stated` where it doesn't say."""
        found = self.reader.generate([prompts.read(passage, q) for q in questions], READING)
        return [answer.strip().rstrip(".") for answer in found]

    def list_answers(self, passage: str, times: int, seed: int) -> list[str]:
        """Short answers that questions could have: listed greedily once, and sampled `times - 1` times."""
        task = prompts.list_answers(passage)
        lists = self.writer.generate([task], replace(LISTING, temperature=0.0))
        if times > 1:
            lists += self.writer.generate([task] * (times - 1), replace(LISTING, seed=seed))
        lines = [line.strip().rstrip(".") for one in lists for line in one.split("\n")]
        return list(dict.fromkeys(line for line in lines if line))

    def write(
        self, passage: str, listed: Sequence[str], wanted: Sequence[tuple[str, QuestionKind]], seed: int
    ) -> list[str]:
        """One question for each wanted answer and kind."""
        before = [*prompts.list_answers(passage), prompts.assistant("\n".join(listed[:REMEMBERED]))]
        tasks = [[*before, prompts.ask_for(answer, kind)] for answer, kind in wanted]
        return [question.strip() for question in self.writer.generate(tasks, replace(WRITING, seed=seed))]


def open_scholar(settings: Settings) -> Scholar:
    """The scholar that the configuration names."""
    if settings.study.endpoint:
        from lmt2.models.openai import OpenAIModel

        model = OpenAIModel(settings.study.endpoint, settings.study.endpoint_model, settings.study.endpoint_key)
        return Scholar(model, model)
    folder = model_path(settings.model.name)
    return Scholar(
        LocalModel(folder, settings.model.dtype, ADAPTERS / "reader"),
        LocalModel(folder, settings.model.dtype, ADAPTERS / "writer"),
    )
