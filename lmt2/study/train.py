"""Train a study adapter for SmolLM2 on the shipped lessons.

    python -m lmt2.study.train --task reader    # passage + question -> short answer, or "not stated"; judge a pair
    python -m lmt2.study.train --task writer    # list answers, write questions for them, rephrase questions

A passage and its tasks are one row: the passage stands there once, and each task sees the passage and itself, as
in use (`lmt2.models.shared_prefix`). The loss is on the answers; where a writer's own wrong question was repaired by
hand, the repair must also become likelier than the mistake (ORPO, arXiv 2403.07691). Every tenth passage is kept
apart for measuring. The lessons come from no document of any benchmark.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from lmt2.models.assets import SMOLLM2, model_path
from lmt2.models.base import Conversation, TokenIds
from lmt2.models.local import LocalModel, common_prefix
from lmt2.models.shared_prefix import Packing
from lmt2.scoring import hit
from lmt2.study import prompts
from lmt2.study.passages import read_out, sentences
from lmt2.study.prompts import KINDS

Passage = dict[str, Any]
Pair = dict[str, str]
RANK, LEARNING_RATE, SEED = 16, 4e-4, 1
EPOCHS = {"reader": 1.5, "writer": 2.0}
PREFERENCE = 0.5  # weight of the odds-ratio loss, lambda of the ORPO paper
ANSWERED, UNANSWERED, SWAPPED = 7, 2, 1  # what the reader is asked of one passage in one epoch
JUDGED = 3  # pairs that are right, and as many that are wrong, which it is asked to judge
LISTED, WRITTEN, REPHRASED = 2, {"direct": 2, "reversed": 1, "composed": 1}, 2  # the same for the writer
REPAIRED = 5  # of its own questions, as they should have been


class Task(NamedTuple):
    """What is asked, what should come back, and what came back instead, if it was wrong."""

    asked: Conversation
    answer: str
    rejected: str = ""


def passages(held_out: bool) -> list[Passage]:
    """The shipped lessons: a tenth kept apart for measuring, or the rest for training."""
    lines = (files("lmt2.study") / "data/lessons.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for i, line in enumerate(lines) if (i % 10 == 0) is held_out]
    return [passage | {"text": read_out(passage["text"])} for passage in found]


@cache
def marked() -> dict[str, list[dict[str, Any]]]:
    """Pairs that a writer wrote about the lessons' passages, marked by hand and mostly repaired, by passage."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (files("lmt2.study") / "data/marked.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["passage"], []).append(row)
    return found


def reader_tasks(passage: Passage, other: Passage, rng: random.Random) -> list[Task]:
    """Questions that the passage answers, three kinds that it doesn't, and pairs to judge.

    Those are written to sound answerable, or ask of one name what holds for another, or belong to another passage.
    """
    text = passage["text"]
    answered = [(pair["q"], pair["a"]) for pair in _some(passage["pairs"], ANSWERED, rng)]
    swapped = [question for pair in passage["pairs"] if (question := _other_subject(pair, passage, rng))]
    without = [
        *_some(passage.get("unanswered", []), UNANSWERED, rng),
        *_some(swapped, SWAPPED, rng),
        rng.choice(other["pairs"])["q"],
    ]
    asked = answered + [(question, prompts.NOT_STATED) for question in without]
    return [Task(prompts.read(text, question), answer) for question, answer in asked] + judge_tasks(passage, rng)


def judge_tasks(passage: Passage, rng: random.Random) -> list[Task]:
    """Pairs to judge: those that a writer wrote and a person marked, the passage's own, and mixed-up ones."""
    rows = marked().get(passage["id"], [])
    own = [(pair["q"], pair["a"]) for pair in _some(passage["pairs"], JUDGED, rng)]
    mixed = [pair for question, answer in own if (pair := _mixed_up(question, answer, passage, rng))]
    right = [pair for row in rows if (pair := as_it_should_be(row))]
    wrong = [(row["question"], row["answer"]) for row in rows if not row["right"]]
    return [
        Task(prompts.judge(passage["text"], question, answer), verdict)
        for verdict, written, made in ((prompts.RIGHT, right, own), (prompts.WRONG, wrong, mixed))
        for question, answer in (_some(written, JUDGED, rng) + made)[:JUDGED]
    ]


def as_it_should_be(row: dict[str, Any]) -> tuple[str, str] | None:
    """The question and answer of a marked pair, or of its repair; None if it was wrong and can't be repaired."""
    question = row["question"] if row["right"] else row.get("better", "")
    return (question, row.get("better_answer", row["answer"])) if question else None


def _mixed_up(question: str, answer: str, passage: Passage, rng: random.Random) -> tuple[str, str] | None:
    """The question with another answer of the passage that looks alike: a number for a number, a name for a name."""
    alike = {p["a"] for p in passage["pairs"] if _look(p["a"]) == _look(answer) and not hit(p["a"], [answer])}
    others = sorted(a for a in alike if not hit(answer, [a]) and not hit(question, [a]))
    return (question, rng.choice(others)) if others else None


def _look(answer: str) -> tuple[bool, bool]:
    return any(c.isdigit() for c in answer), answer[0].isupper()


def _other_subject(pair: Pair, passage: Passage, rng: random.Random) -> str:
    """The question with a name in it replaced by another name of the passage; empty if it holds none."""
    names = sorted({p["a"] for p in passage["pairs"] if p["a"][0].isupper()})
    inside = [name for name in names if hit(pair["q"], [name])]
    others = [name for name in names if name not in inside and not hit(name, [pair["a"]])]
    if not inside or not others:
        return ""
    return pair["q"].replace(rng.choice(inside), rng.choice(others))


def writer_tasks(passage: Passage, _: Passage, rng: random.Random) -> list[Task]:
    """Answers to list, questions to write and to rephrase."""
    text = passage["text"]
    by_fact: dict[str, list[Pair]] = {}
    for pair in passage["pairs"]:
        by_fact.setdefault(pair["fact"], []).append(pair)
    listed = _listing(text, passage["pairs"])
    written = [task for fact in by_fact.values() for task in _writing(text, fact)]
    rephrased = [
        Task(prompts.ask_otherwise(text, one["q"], one["a"]), other["q"])
        for fact in by_fact.values()
        for one in fact
        for other in fact
        if one is not other and one["a"] == other["a"] and {one["kind"], other["kind"]} <= {"direct", "rephrased"}
    ]
    chosen = _some(listed, LISTED, rng) + _some(rephrased, REPHRASED, rng)
    for kind, times in WRITTEN.items():
        chosen += _some([task for of_kind, task in written if of_kind == kind], times, rng)
    return chosen + _some(_repaired(passage), REPAIRED, rng)


def _repaired(passage: Passage) -> list[Task]:
    """What a writer was asked, with the question as it should be, and its own if that was wrong."""
    rows = [row for row in marked().get(passage["id"], []) if "kind" in row]
    return [_rewriting(passage["text"], row, pair) for row in rows if (pair := as_it_should_be(row))]


def _rewriting(text: str, row: dict[str, Any], better: tuple[str, str]) -> Task:
    if row["kind"] == "rephrased":
        asked = prompts.ask_otherwise(text, row["given"], row["answer"])
    else:
        asked = prompts.ask_for(text, row["sentence"], row["given"], row["kind"])
    is_reversed = row["kind"] == "reversed"
    own = "" if row["right"] else _said(row["question"], row["answer"], is_reversed)
    return Task(asked, _said(*better, is_reversed), own)


def _said(question: str, answer: str, is_reversed: bool) -> str:
    return f"{question}\n{answer}" if is_reversed else question


def _listing(text: str, pairs: Sequence[Pair]) -> list[Task]:
    found: dict[str, dict[str, None]] = {sentence: {} for sentence in sentences(text)}
    for pair in pairs:
        if pair["kind"] == "direct":
            found[sentence_of(text, pair["q"], pair["a"])][pair["a"]] = None
    in_order = {s: sorted(answers, key=s.find) for s, answers in found.items()}
    return [Task(prompts.list_answers(text, s), "\n".join(answers)) for s, answers in in_order.items() if answers]


def _writing(text: str, fact: Sequence[Pair]) -> Iterator[tuple[str, Task]]:
    """Writing tasks for one fact, with their kinds; a reversed question goes out from the answer of the direct one."""
    direct = next((pair["a"] for pair in fact if pair["kind"] == "direct"), "")
    for kind in KINDS:
        for pair in (pair for pair in fact if pair["kind"] == kind):
            answer = direct if kind == "reversed" else pair["a"]
            said = _said(pair["q"], pair["a"], kind == "reversed")
            if answer and (kind != "reversed" or answer != pair["a"]):
                yield kind, Task(prompts.ask_for(text, sentence_of(text, pair["q"], answer), answer, kind), said)


def sentence_of(text: str, question: str, answer: str) -> str:
    """The sentence of a text that holds the answer and has most words of the question.

    >>> sentence_of("Ida runs Vell. Tom runs Corvo. Tom is old.", "Who runs Corvo?", "Tom")
    'Tom runs Corvo.'
    """
    words = set(re.findall(r"\w+", question.casefold()))
    return max(
        sentences(text),
        key=lambda s: 10 * hit(s, [answer]) + len(words & set(re.findall(r"\w+", s.casefold()))),
    )


def _some(pool: Sequence[Any], most: int, rng: random.Random) -> list[Any]:
    return rng.sample(pool, min(most, len(pool)))


TASKS = {"reader": reader_tasks, "writer": writer_tasks}


def rows(task: str, rng: random.Random, steps: int) -> Iterator[list[Task]]:
    """The tasks of one passage after the other, each drawn once an epoch, its tasks chosen anew each time."""
    pool = passages(held_out=False)
    order: list[Passage] = []
    for _ in range(steps):
        order = order or rng.sample(pool, len(pool))
        yield TASKS[task](order.pop(), rng.choice(pool), rng)


def loss_of(net: Any, model: LocalModel, tasks: Sequence[Task]) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens of one row, and the odds-ratio loss of those with a rejected one.

    The vocabulary projection runs only where there is an answer.
    """
    rejecting = [task for task in tasks if task.rejected]
    said = [(task.asked, task.answer) for task in tasks] + [(task.asked, task.rejected) for task in rejecting]
    asked = [model.encode(conversation) for conversation, _ in said]
    answers = [[*model.encode_text(answer), model.tokenizer.eos_token_id] for _, answer in said]
    shared = common_prefix(asked)
    tails: list[TokenIds] = [task[shared:] + answer[:-1] for task, answer in zip(asked, answers, strict=True)]
    packing = Packing(shared, list(map(len, tails)))
    ids = torch.tensor([asked[0][:shared] + [token for tail in tails for token in tail]])
    hidden = net.model(input_ids=ids, position_ids=packing.positions, packing=packing).last_hidden_state[0, shared:]
    predicting = [row[-len(a) :] for row, a in zip(hidden.split(list(map(len, tails))), answers, strict=True)]
    wanted = torch.tensor([token for answer in answers for token in answer])
    by_token = -F.cross_entropy(net.lm_head(torch.cat(predicting)).float(), wanted, reduction="none")
    likely = torch.split(by_token, list(map(len, answers)))
    taught, refused = likely[: len(tasks)], likely[len(tasks) :]
    preferred = [part for part, task in zip(taught, tasks, strict=True) if task.rejected]
    ratios = [_log_odds(one) - _log_odds(other) for one, other in zip(preferred, refused, strict=True)]
    loss = -torch.cat(taught).mean()
    return loss - PREFERENCE * F.logsigmoid(torch.stack(ratios)).mean() if ratios else loss


def _log_odds(by_token: torch.Tensor) -> torch.Tensor:
    """Log odds p / (1 - p) of a text with log-probabilities [T], where p is a token's geometric mean (ORPO, eq. 4)."""
    mean = by_token.mean()
    return mean - torch.log1p(-mean.exp())


def train(task: str, folder: Path, out: Path, epochs: float) -> None:
    """Train one adapter and save it as bfloat16 safetensors."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(SEED)
    model = LocalModel(folder)
    shape = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = get_peft_model(model.net, shape, autocast_adapter_dtype=False)
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    kept = [p.detach().float() for p in trained]  # bfloat16 would swallow small steps
    steps = round(epochs * len(passages(held_out=False)))
    optimizer = torch.optim.AdamW(kept, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 5) * (1 - 0.9 * s / steps))
    for step, tasks in enumerate(rows(task, random.Random(SEED), steps)):
        loss = loss_of(wrapped.base_model.model, model, tasks)
        loss.backward()  # type: ignore[no-untyped-call]
        _step(optimizer, kept, trained)
        schedule.step()
        if step % 10 == 0:
            print(f"{task}: step {step}/{steps}, loss {loss.item():.3f}", flush=True)
    wrapped.save_pretrained(out)
    tidy(out, folder.name)


def _step(optimizer: torch.optim.Optimizer, kept: Sequence[torch.Tensor], trained: Sequence[torch.Tensor]) -> None:
    """One step on the float32 copies `kept`, with the gradients of the bfloat16 weights `trained` that follow them."""
    for full, short in zip(kept, trained, strict=True):
        assert short.grad is not None
        full.grad, short.grad = short.grad.float(), None
    torch.nn.utils.clip_grad_norm_(kept, 1.0)
    optimizer.step()
    for full, short in zip(kept, trained, strict=True):
        short.data.copy_(full)


def tidy(out: Path, base: str) -> None:
    """Half the size, no path of this machine, no generated card: the folder above has the card of all its adapters."""
    weights, config = out / "adapter_model.safetensors", out / "adapter_config.json"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    fields = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
    config.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").unlink(missing_ok=True)


def main() -> None:
    """Command line: which task, from which base, to where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    parser.add_argument("--model", default=SMOLLM2.name)
    parser.add_argument("--epochs", type=float, help=f"default: {EPOCHS}")
    parser.add_argument("--out", type=Path, help="default: the adapter shipped in lmt2/study/adapters")
    args = parser.parse_args()
    out = args.out or Path(__file__).parent / "adapters" / args.task
    train(args.task, model_path(args.model), out, args.epochs or EPOCHS[args.task])


if __name__ == "__main__":
    main()
