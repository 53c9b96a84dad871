"""Train the finder: an adapter with which the encoder puts a question nearest to the fact that answers it.

    python -m lmt2.study.finder

A sentence encoder sees what a question is about, and questions about one document are all about much the same. With
the adapter a question of a training passage is to be nearest to a fact with its answer, among all facts of the passage,
and then to the other questions with its answer (InfoNCE with several positives, as in supervised contrastive learning,
arXiv 2004.11362). A fact is an answer with a sentence that states it; the answer of a reversed question, a subject,
may go with any sentence. Every tenth passage is kept apart for measuring.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from lmt2.models.assets import MINILM, model_path
from lmt2.models.encoder import FINDERS, Embeds, Encoder, pooled
from lmt2.scoring import hit, normalise
from lmt2.study.passages import sentences
from lmt2.study.prompts import stated
from lmt2.study.train import Passage, as_it_should_be, marked, passages, tidy

RANK, LEARNING_RATE, EPOCHS, SEED = 16, 1e-3, 3, 0
WARM_UP = 40  # passages
TEMPERATURE = 0.05
ASKED = 16  # questions of a passage in one step, with twice as many facts that answer them and as many that don't
AMONG_QUESTIONS = 0.5  # weight of the second loss
FEWEST = 3  # facts of a passage that there is something to tell apart in
NEVER = -1e9


class Entry(NamedTuple):
    """A question or a statement, and the answer that it asks for or gives, normalised."""

    text: str
    answer: str


class Group(NamedTuple):
    """What a passage states, and what is asked about it."""

    facts: list[Entry]
    questions: list[Entry]


def groups(found: Sequence[Passage]) -> list[Group]:
    """The passages that have facts to tell apart."""
    every = [_group(passage) for passage in found]
    return [group for group in every if len(group.facts) >= FEWEST and group.questions]


def _group(passage: Passage) -> Group:
    pairs = [pair for pair in passage["pairs"] if pair["a"]]
    subjects = {normalise(pair["a"]) for pair in pairs if pair["kind"] == "reversed"}
    facts = {
        Entry(stated(answer, sentence), normalise(answer)): None
        for answer in dict.fromkeys(pair["a"] for pair in pairs)
        for sentence in sentences(passage["text"])
        if normalise(answer) in subjects or hit(sentence, [answer])
    }
    answers = {fact.answer for fact in facts}
    asked = [(pair["q"], pair["a"]) for pair in pairs]
    asked += [pair for row in marked().get(passage["id"], []) if (pair := as_it_should_be(row))]
    questions = [Entry(question, normalise(answer)) for question, answer in asked]
    return Group(list(facts), [question for question in questions if question.answer in answers])


def some_of(group: Group, rng: random.Random) -> Group:
    """Some questions, some facts that answer them, and some that don't."""
    asked = _some(group.questions, ASKED, rng)
    wanted = {question.answer for question in asked}
    facts = _some([f for f in group.facts if f.answer in wanted], 2 * ASKED, rng)
    facts += _some([f for f in group.facts if f.answer not in wanted], ASKED, rng)
    given = {fact.answer for fact in facts}
    return Group(facts, [question for question in asked if question.answer in given])


def _some(entries: Sequence[Entry], count: int, rng: random.Random) -> list[Entry]:
    return rng.sample(entries, min(count, len(entries)))


def loss_of(questions: Tensor, facts: Tensor, group: Group) -> Tensor:
    """The loss of a group, from unit-length embeddings of its questions [Q, E] and facts [F, E]."""
    answered = _same(group.questions, group.facts)
    loss = _missed(questions @ facts.T, answered).mean()
    itself = torch.eye(len(questions), dtype=torch.bool)
    alike = _same(group.questions, group.questions) & ~itself
    among = _missed((questions @ questions.T).masked_fill(itself, NEVER), alike)[alike.any(1)]
    return loss + AMONG_QUESTIONS * among.mean() if len(among) else loss


def _missed(likeness: Tensor, is_right: Tensor) -> Tensor:
    """For each row of [N, M]: -log of the share of a softmax that the right columns have."""
    logits = likeness / TEMPERATURE
    return torch.logsumexp(logits, 1) - torch.logsumexp(logits.masked_fill(~is_right, NEVER), 1)


def _same(rows: Sequence[Entry], columns: Sequence[Entry]) -> Tensor:
    return torch.tensor([[row.answer == column.answer for column in columns] for row in rows])


def nearest_are_right(encoder: Embeds, found: Sequence[Group]) -> tuple[int, int]:
    """Of how many questions the nearest fact of the passage has the answer, and of how many questions."""
    right = asked = 0
    for group in found:
        facts, questions = (encoder.by_fact([entry.text for entry in entries]) for entries in group)
        nearest = (questions @ facts.T).argmax(1).tolist()
        right += sum(group.facts[n].answer == q.answer for n, q in zip(nearest, group.questions, strict=True))
        asked += len(group.questions)
    return right, asked


def train(found: Sequence[Group], folder: Path, out: Path, epochs: float = EPOCHS) -> None:
    """Train the adapter for the encoder of a folder, and save it as bfloat16 safetensors."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    shape = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["query", "key", "value", "dense"])
    net: Any = get_peft_model(AutoModel.from_pretrained(folder), shape)
    trained = [p for p in net.parameters() if p.requires_grad]
    steps = round(epochs * len(found))
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / WARM_UP) * (1 - 0.95 * s / steps)
    )
    for step in range(steps):
        if step % len(found) == 0:
            order = rng.sample(list(found), len(found))
        group = some_of(order[step % len(found)], rng)
        facts, questions = (pooled(net, tokenizer, [entry.text for entry in entries]) for entries in group)
        loss = loss_of(questions, facts, group)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print(f"finder: step {step}/{steps}, loss {loss.item():.3f}", flush=True)
    net.save_pretrained(out)
    tidy(out, folder.name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default=MINILM.name)
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--out", type=Path, help="default: the adapter shipped in lmt2/models/finders")
    args = parser.parse_args()
    folder, out = model_path(args.encoder), args.out or FINDERS / args.encoder
    train(groups(passages(held_out=False)), folder, out, args.epochs)
    apart = groups(passages(held_out=True))
    right, asked = nearest_are_right(Encoder(folder, out), apart)
    print(f"passages kept apart: the nearest fact has the answer of {right} of {asked} questions", flush=True)


if __name__ == "__main__":
    main()
