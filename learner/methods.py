"""The methods of learning, by the names that the configuration knows them by.

A method makes targets from a request and what is at hand. It knows neither how the memory stores an update nor the
other methods, and a target says which of the request's answers it teaches, so that the answer's expert learns it.
What a method asks of models is counted; when the budget is spent it ends with the targets that it has yielded.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from learner.hand import Hand
from learner.learn import interact, prompt_distillation
from learner.master import ensemble, reflection, yoda
from learner.targets import Target
from learner.teach import by_teaching
from lmt2.config import Method
from lmt2.errors import BudgetSpent
from lmt2.events import UpdateRequest


class Build(Protocol):
    """A method."""

    def __call__(self, request: UpdateRequest, hand: Hand) -> Iterator[Target]:
        """The targets of one round."""
        ...


METHODS: Mapping[Method, Build] = {
    "prompt_distillation": prompt_distillation.build,
    "interact": interact.build,
    "yoda": yoda.build,
    "ensemble": ensemble.build,
    "reflection": reflection.build,
    "by_teaching": by_teaching.build,
}


def build_all(methods: Sequence[Build], request: UpdateRequest, hand: Hand) -> list[Target]:
    """The targets of several methods, as far as the budget goes."""
    found: list[Target] = []
    with hand.budget.at_work():
        for build in methods:
            try:
                for target in build(request, hand):
                    found.append(target)  # noqa: PERF402 (what was yielded before the budget ended stays)
            except BudgetSpent as error:
                hand.figures["budget"] = str(error)
    return found
