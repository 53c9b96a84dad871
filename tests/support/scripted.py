"""Models and scholars that say what a test tells them to, and remember what they were asked."""

import re
from collections.abc import Callable, Mapping, Sequence

from consumer.kaft import NOTHING
from lmt2.models.base import Conversation, Sampling
from lmt2.study import prompts
from lmt2.study.lessons import ELSEWHERE
from lmt2.study.scholar import Scholar

TASK = re.compile(
    r"(?P<passage>.*)\n\n(?:Sentence: (?P<sentence>.*)\n(?:Answer: (?P<answer>.*)\nWrite a question \((?P<kind>\w+)\)\."
    r"|List the short answers .*)|Question: (?P<question>.*)\nAnswer: (?P<its>.*)\nAsk the same in other words\.)",
    re.DOTALL,
)  # the writer's three tasks, as lmt2.study.prompts words them


class Scripted:
    """A language model whose answer is a function of the conversation; each token of an answer has one probability."""

    def __init__(self, answer: Callable[[Conversation], str], logprob: float = -1.0) -> None:
        self.asked: list[str] = []  # the last turn of every conversation
        self._answer = answer
        self._logprob = logprob

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:  # noqa: ARG002
        self.asked += [conversation[-1]["content"] for conversation in conversations]
        return [self._answer(conversation) for conversation in conversations]

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        assert len(conversations) == len(answers)
        return [[self._logprob] * len(answer.split()) for answer in answers]


class Probe(Scripted):
    """A probe model to which all right answers have one relative NLL, as in `consumer.kaft.Asked`."""

    def __init__(self, answer: Callable[[Conversation], str], nll: float) -> None:
        super().__init__(answer)
        self._nll = nll

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        about = [conversation[-1]["content"].startswith(NOTHING) for conversation in conversations]
        return [[-4.0 if n else -4.0 - self._nll] * len(a.split()) for n, a in zip(about, answers, strict=True)]


Phrasings = Mapping[str, Sequence[str]]  # the writer's questions for an answer, in the order in which they come


class Book:
    """A scholar's knowledge: which answers it lists, which questions it writes, and what the reader then finds."""

    def __init__(
        self,
        phrasings: Phrasings,
        reads: Mapping[str, str] | None = None,
        corrections: Mapping[str, str] | None = None,
        silent: Sequence[str] = ("reversed",),
        unsound: Sequence[str] = (),
    ) -> None:
        """What the reader says besides the answer that a question was written for.

        Args:
            phrasings: the writer's questions, by answer.
            reads: other answers, by question.
            corrections: answers that a passage with the new answer replaces, by old answer.
            unsound: questions that the judge doesn't find right.
            silent: kinds of question that the writer doesn't write.
        """
        self._silent = silent
        self._unsound = unsound
        self._corrections = corrections or {}
        self._queues = {answer: list(questions) for answer, questions in phrasings.items()}
        self._listed = list(phrasings)
        self._reads = {question: answer for answer, questions in phrasings.items() for question in questions}
        self._reads |= reads or {}
        self.reader = Scripted(self._read)
        self.writer = Scripted(self._write)
        self.scholar = Scholar(self.reader, self.writer)

    def _read(self, conversation: Conversation) -> str:
        passage, question = conversation[-1]["content"].rsplit("\n\n", 1)
        if passage == ELSEWHERE:
            return prompts.NOT_STATED
        if question.endswith("Is this right?"):
            return prompts.WRONG if any(f"Question: {q}\n" in question for q in self._unsound) else prompts.RIGHT
        answer = self._reads.get(question, prompts.NOT_STATED)
        corrected = self._corrections.get(answer, "")
        return corrected if corrected and corrected in passage else answer

    def _write(self, conversation: Conversation) -> str:
        task = TASK.fullmatch(conversation[-1]["content"])
        assert task, "the writer has three tasks"
        if task["sentence"] and not task["answer"]:
            return "\n".join(answer for answer in self._listed if answer in task["sentence"])
        if task["kind"] in self._silent:
            return ""
        queue = self._queues.get(task["answer"] or task["its"], [])
        queue.append(queue.pop(0) if queue else "")  # goes round: a longer text is asked about more often
        return queue[-1]
