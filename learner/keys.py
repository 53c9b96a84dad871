"""What a shard is found by: where its documents and lessons lie, and which expert each of their facts calls.

An answer has one expert, however many facts and phrasings lead to it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lmt2.events import Document, Lesson
from lmt2.models.encoder import Embeds
from lmt2.scoring import normalise
from lmt2.study.passages import sentences
from lmt2.study.prompts import stated
from memory.shards import Keys

NEIGHBOURS = 3  # nearest facts with another answer, through whose experts a lesson may be sent


def experts_of(lessons: Sequence[Lesson]) -> Mapping[str, int]:
    """The number of each answer's expert."""
    return {answer: number for number, answer in enumerate(dict.fromkeys(normalise(x.answer) for x in lessons))}


def keys_for(documents: Sequence[Document], lessons: Sequence[Lesson], encoder: Embeds) -> Keys:
    """The keys of a shard that teaches these lessons."""
    experts = experts_of(lessons)
    under_titles = [f"{d.title}. {s}" for d in documents for s in [*sentences(d.text), ""]]
    facts = {stated(x.answer, x.sentence or x.question): experts[normalise(x.answer)] for x in lessons}
    return Keys(
        places=encoder([*under_titles, *(x.question for x in lessons)]),
        facts=encoder.by_fact(list(facts)),
        experts=torch.tensor(list(facts.values()), dtype=torch.int32),
        answers=tuple(experts),
    )


def near_experts(question: Tensor, own: int, keys: Keys) -> tuple[int, ...]:
    """The experts that a question [E], embedded by fact, is next nearest to after its own: a router could err so."""
    likeness = (keys.facts @ question).masked_fill(keys.experts == own, -1.0)
    nearest = likeness.topk(min(NEIGHBOURS, len(likeness))).indices
    return tuple(expert for expert in keys.experts[nearest].tolist() if expert != own)
