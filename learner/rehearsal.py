"""General prompts with the base model's own answers: they hold the rest of the model still while a shard learns."""

import random

from learner.targets import Target
from lmt2.data import general
from lmt2.models.base import Sampling
from lmt2.models.local import LocalModel
from lmt2.study import prompts

PROMPTS = 48
ANSWERS = Sampling(max_new_tokens=20)


def rehearsal_targets(base: LocalModel, seed: int) -> list[Target]:
    """A sample of the general questions that the gate doesn't examine, with the base model's distributions."""
    questions = random.Random(seed).sample([g.q for g in general()[::2]], PROMPTS)
    tasks = [base.encode([prompts.user(q)]) for q in questions]
    written = base.generate([[prompts.user(q)] for q in questions], ANSWERS)
    answers = [base.encode_text(text) or base.encode_text(".") for text in written]
    return [
        Target(prompt=task, answer=answer, weight=1.0, fact=question, teacher=logits.log_softmax(-1).bfloat16())
        for question, task, answer, logits in zip(
            questions, tasks, answers, base.answer_logits(tasks, answers), strict=True
        )
    ]
