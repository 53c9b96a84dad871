"""Train a study adapter for SmolLM2 on the shipped lessons.

    python -m lmt2.study.train --task reader    # passage + question -> short answer, or "not stated"
    python -m lmt2.study.train --task writer    # passage -> list of answers; answer + kind -> question

A passage is one conversation with many turns and a loss on every answer, so its tokens are paid for once.
Every tenth passage is kept apart for measuring. The lessons come from no document of any benchmark.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from lmt2.models.assets import SMOLLM2, model_path
from lmt2.models.base import Conversation
from lmt2.study import prompts

Passage = dict[str, Any]
RANK, LEARNING_RATE, BATCH, EPOCHS, SEED = 16, 3e-4, 3, 3, 1
QUESTIONS_A_PASSAGE = 7  # what the writer is taught of one passage in one epoch


def passages(held_out: bool) -> list[Passage]:
    """The shipped lessons: a tenth kept apart for measuring, or the rest for training."""
    lines = (files("lmt2.study") / "data/lessons.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for i, line in enumerate(lines) if (i % 10 == 0) is held_out]


def reader_lesson(passage: Passage, other: Passage, rng: random.Random) -> Conversation:
    """One phrasing of each fact, so that no earlier turn gives an answer away, and one question of another passage."""
    by_fact: dict[str, list[dict[str, str]]] = {}
    for pair in passage["pairs"]:
        by_fact.setdefault(pair["fact"], []).append(pair)
    asked = [(pair["q"], pair["a"]) for pair in (rng.choice(pairs) for pairs in by_fact.values())]
    asked.append((rng.choice(other["pairs"])["q"], prompts.NOT_STATED))
    rng.shuffle(asked)
    turns = prompts.read(passage["text"], asked[0][0])
    for n, (question, answer) in enumerate(asked):
        if n:
            turns.append(prompts.user(question))
        turns.append(prompts.assistant(answer))
    return turns


def writer_lesson(passage: Passage, _: Passage, rng: random.Random) -> Conversation:
    """The list of answers, then questions for some of them."""
    answers = dict.fromkeys(pair["a"] for pair in passage["pairs"])
    turns = [*prompts.list_answers(passage["text"]), prompts.assistant("\n".join(answers))]
    for pair in rng.sample(passage["pairs"], min(QUESTIONS_A_PASSAGE, len(passage["pairs"]))):
        turns += [prompts.ask_for(pair["a"], pair["kind"]), prompts.assistant(pair["q"])]
    return turns


LESSONS = {"reader": reader_lesson, "writer": writer_lesson}


@dataclass(frozen=True)
class Encoded:
    """Token ids of a conversation, and which of them are answers."""

    ids: list[int]
    is_label: list[bool]


def encode(tokenizer: Any, turns: Conversation) -> Encoded:
    """Tokenise turn by turn; labels are an assistant's words and its end-of-turn token."""
    ids: list[int] = []
    is_label: list[bool] = []
    done = ""
    for n, turn in enumerate(turns):
        asks = turn["role"] != "assistant"
        text = tokenizer.apply_chat_template(turns[: n + 1], add_generation_prompt=asks, tokenize=False)
        text = text if asks else text.rstrip("\n")  # the newline after an end-of-turn belongs to the next turn
        new = tokenizer(text[len(done) :], add_special_tokens=False)["input_ids"]
        ids += new
        is_label += [not asks] * len(new)
        done = text
    return Encoded(ids, is_label)


def batches(tokenizer: Any, task: str, rng: random.Random, steps: int) -> Iterator[list[Encoded]]:
    """Shuffled passages, each drawn once an epoch, its turns chosen anew each time."""
    pool = passages(held_out=False)
    order: list[Passage] = []
    for _ in range(steps):
        if len(order) < BATCH:
            order = rng.sample(pool, len(pool))
        yield [encode(tokenizer, LESSONS[task](order.pop(), rng.choice(pool), rng)) for _ in range(BATCH)]


def loss_of(model: Any, batch: list[Encoded]) -> torch.Tensor:
    """Mean cross-entropy of the labels; the vocabulary projection runs only where there is one."""
    width = max(len(row.ids) for row in batch)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in batch])
    is_label = torch.tensor([row.is_label + [False] * (width - len(row.ids)) for row in batch])[:, 1:]
    hidden = model.base_model.model.model(input_ids=ids).last_hidden_state[:, :-1]  # right padding: causal is enough
    logits = model.base_model.model.lm_head(hidden[is_label]).float()
    return F.cross_entropy(logits, ids[:, 1:][is_label])


def train(task: str, model_folder: Path, out: Path, epochs: int) -> None:
    """Train one adapter and save it as bfloat16 safetensors."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    shape = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, shape, autocast_adapter_dtype=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    steps = epochs * len(passages(held_out=False)) // BATCH
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 5) * (1 - 0.9 * s / steps))
    for step, batch in enumerate(batches(tokenizer, task, random.Random(SEED), steps)):
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 10 == 0:
            print(f"{task}: step {step}/{steps}, loss {loss.item():.3f}", flush=True)
    model.save_pretrained(out)
    _tidy(out, model_folder.name)


def _tidy(out: Path, base: str) -> None:
    """Half the size, no path of this machine, no generated card: `adapters/README.md` is the card of all."""
    weights, config = out / "adapter_model.safetensors", out / "adapter_config.json"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    fields = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
    config.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").unlink(missing_ok=True)


def main() -> None:
    """Command line: which task, from which base, to where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(LESSONS), required=True)
    parser.add_argument("--model", default=SMOLLM2.name)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, help="default: the adapter shipped in lmt2/study/adapters")
    args = parser.parse_args()
    out = args.out or Path(__file__).parent / "adapters" / args.task
    train(args.task, model_path(args.model), out, args.epochs)


if __name__ == "__main__":
    main()
