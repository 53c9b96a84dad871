"""Train the head that tells facts of one document apart by the questions about them.

    python -m lmt2.study.finder

A sentence encoder sees what a question is about, and questions about one document are all about much the same. The
head is a matrix H [E, E] after the frozen encoder: among the questions of a training passage those with the same
answer are to be nearest (supervised contrastive loss, arXiv 2004.11362), written by hand or by the writer adapter.
"""

import argparse
import json
import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from lmt2.models.assets import MINILM, model_path
from lmt2.models.encoder import HEADS, Encoder
from lmt2.scoring import normalise
from lmt2.study.train import passages

EPOCHS, AT_ONCE, LEARNING_RATE, SEED = 4, 8, 1e-3, 0
TEMPERATURE = 0.1
NEAR_IDENTITY = 1e-3  # weight of the squared distance of H from the identity
FEWEST = 4  # questions of a passage that there is something to tell apart in


class Group(NamedTuple):
    """The questions of a passage: embeddings [N, E], the answers' numbers [N], and which make sense [N]."""

    questions: Tensor
    answers: Tensor
    is_sound: Tensor


def groups(encoder: Encoder, held_out: bool) -> list[Group]:
    """The questions of the shipped lessons, and those of the writer that were marked by hand."""
    lines = (files("lmt2.study") / "data/marked.jsonl").read_text(encoding="utf-8").splitlines()
    marked: dict[str, list[tuple[str, str, bool]]] = {}
    for row in map(json.loads, lines):
        marked.setdefault(row["passage"], []).append((row["question"], row["answer"], row["right"]))
    found = []
    for passage in passages(held_out):
        written = [(pair["q"], pair["a"], True) for pair in passage["pairs"] if pair["a"]]
        asked = [*written, *marked.get(passage["id"], [])]
        if len(asked) >= FEWEST:
            found.append(_group(encoder, asked))
    return found


def _group(encoder: Encoder, asked: Sequence[tuple[str, str, bool]]) -> Group:
    answers = [normalise(answer) for _, answer, _ in asked]
    numbers = {answer: number for number, answer in enumerate(dict.fromkeys(answers))}
    return Group(
        encoder([question for question, _, _ in asked]),
        torch.tensor([numbers[answer] for answer in answers]),
        torch.tensor([is_sound for *_, is_sound in asked]),
    )


def loss_of(head: Tensor, group: Group) -> Tensor:
    """Mean over sound questions that have company: -log of the share that questions of the same answer have."""
    projected = F.normalize(group.questions @ head, dim=-1)
    itself = torch.eye(len(projected), dtype=torch.bool)
    likeness = (projected @ projected.T / TEMPERATURE).masked_fill(itself, -1e9)
    same = (group.answers.unsqueeze(1) == group.answers) & ~itself
    share = torch.logsumexp(likeness.masked_fill(~same, -1e9), 1) - torch.logsumexp(likeness, 1)
    return -share[same.any(1) & group.is_sound].mean()


@torch.no_grad()
def nearest_are_right(head: Tensor, found: Sequence[Group]) -> tuple[int, int]:
    """Of how many sound questions the nearest other question of the passage has the same answer, and of how many."""
    right = asked = 0
    for group in found:
        projected = F.normalize(group.questions @ head, dim=-1)
        nearest = (projected @ projected.T).fill_diagonal_(-1).argmax(1)
        counts = group.is_sound & (torch.bincount(group.answers)[group.answers] > 1)
        right += int((group.answers[nearest] == group.answers)[counts].sum())
        asked += int(counts.sum())
    return right, asked


def train(found: Sequence[Group], width: int) -> Tensor:
    """The head [E, E] for embeddings of a width E."""
    rng = random.Random(SEED)
    head = torch.eye(width, requires_grad=True)
    optimizer = torch.optim.Adam([head], lr=LEARNING_RATE)
    for _ in range(EPOCHS):
        order = rng.sample(list(found), len(found))
        for start in range(0, len(order), AT_ONCE):
            batch = order[start : start + AT_ONCE]
            loss = torch.stack([loss_of(head, group) for group in batch]).mean()
            loss = loss + NEAR_IDENTITY * (head - torch.eye(width)).square().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return head.detach()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default=MINILM.name)
    parser.add_argument("--out", type=Path, help="default: the head shipped in lmt2/models/heads")
    args = parser.parse_args()
    encoder = Encoder(model_path(args.encoder))
    taught, apart = groups(encoder, held_out=False), groups(encoder, held_out=True)
    width = taught[0].questions.shape[1]
    head = train(taught, width)
    for name, matrix in (("without the head", torch.eye(width)), ("with the head", head)):
        right, asked = nearest_are_right(matrix, apart)
        print(
            f"{name}: the nearest question has the same answer for {right} of {asked}, passages kept apart", flush=True
        )
    out = args.out or HEADS / f"{args.encoder}.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({"head": head.half().contiguous()}, out)


if __name__ == "__main__":
    main()
