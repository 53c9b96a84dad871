"""Answers come before study and training, and background steps don't run at once."""

import threading
from collections.abc import Callable

import pytest

from lmt2.models.compute import Compute

PATIENCE = 20.0


class Steps:
    """Background threads that take one step each and can be held inside it."""

    def __init__(self, compute: Compute, count: int) -> None:
        self.entered = threading.Semaphore(0)
        self.may_leave = threading.Semaphore(0)
        self.inside = self.most_inside = 0
        self._compute = compute
        self._threads = [threading.Thread(target=self._step, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _step(self) -> None:
        with self._compute.background():
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            self.entered.release()
            assert self.may_leave.acquire(timeout=PATIENCE)
            self.inside -= 1

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_background_work_waits_while_an_answer_is_made() -> None:
    compute = Compute()
    with compute.serving():
        with compute.serving():
            steps = Steps(compute, 1)
            assert not steps.entered.acquire(timeout=0.1)
        assert not steps.entered.acquire(timeout=0.1), "one of two answers is still being made"
    assert steps.entered.acquire(timeout=PATIENCE)
    steps.may_leave.release()
    steps.join()


def test_an_answer_never_waits_for_a_background_step() -> None:
    compute = Compute()
    steps = Steps(compute, 1)
    assert steps.entered.acquire(timeout=PATIENCE)
    with compute.serving():
        assert steps.inside == 1
    steps.may_leave.release()
    steps.join()


def test_background_steps_run_one_at_a_time() -> None:
    compute = Compute()
    steps = Steps(compute, 3)
    for _ in range(3):
        assert steps.entered.acquire(timeout=PATIENCE)
        steps.may_leave.release()
    steps.join()
    assert steps.most_inside == 1


def fail(block: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="broke"):
        block()


def test_a_failure_gives_the_processor_back() -> None:
    compute = Compute()

    def broken_answer() -> None:
        with compute.serving():
            raise RuntimeError("broke")

    def broken_step() -> None:
        with compute.background():
            raise RuntimeError("broke")

    fail(broken_answer)
    fail(broken_step)
    steps = Steps(compute, 1)
    assert steps.entered.acquire(timeout=PATIENCE)
    steps.may_leave.release()
    steps.join()


def test_a_server_that_is_never_idle_lets_background_work_take_a_step_now_and_then() -> None:
    compute = Compute(patience=0.05)
    with compute.serving():
        steps = Steps(compute, 1)
        assert not steps.entered.acquire(timeout=0.1), "it waited too long, but an answer is being made"
    with compute.serving():  # the next answer, with no gap before it
        assert steps.entered.acquire(timeout=PATIENCE)
    steps.may_leave.release()
    steps.join()
