"""What the methods of one update may have models do, and what they had them do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from lmt2.config import LearnerSettings
from lmt2.errors import BudgetSpent


class Budget:
    """Seconds, tokens written, and questions put to the teacher; a bound of 0 is none."""

    def __init__(self, settings: LearnerSettings) -> None:
        self._settings = settings
        self._seconds = 0.0  # of methods that are done
        self._since = time.monotonic()
        self._tokens = 0
        self._teacher_calls = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within this block the seconds count: methods are at work, not the training."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._seconds += time.monotonic() - self._since

    def count(self, tokens: int = 0, teacher_calls: int = 0) -> None:
        """Add what models did."""
        self._tokens += tokens
        self._teacher_calls += teacher_calls

    def check(self) -> None:
        """Raise BudgetSpent if a bound is reached; to be asked while at work."""
        seconds = self._seconds + time.monotonic() - self._since
        bounds = (
            ("seconds", seconds, self._settings.budget_seconds),
            ("tokens", self._tokens, self._settings.budget_tokens),
            ("teacher_calls", self._teacher_calls, self._settings.budget_teacher_calls),
        )
        for name, spent, bound in bounds:
            if bound and spent >= bound:
                raise BudgetSpent(f"the methods have spent learner.budget_{name} = {bound}")

    @property
    def figures(self) -> dict[str, float]:
        """What was spent."""
        return {
            "spent_seconds": self._seconds,
            "spent_tokens": self._tokens,
            "spent_teacher_calls": self._teacher_calls,
        }
