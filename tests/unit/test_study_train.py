"""Training of the study skills: what is asked, which tokens carry the loss, and an adapter that can be shipped."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lmt2.models.base import Conversation, Sampling
from lmt2.models.local import LocalModel
from lmt2.study import prompts, train

PASSAGE = {
    "id": "p",
    "text": "Ida Brandt keeps the lamp at Vell. It has 412 steps.",
    "pairs": [
        {"fact": "keeper", "kind": "direct", "q": "Who keeps the lamp?", "a": "Ida Brandt"},
        {"fact": "keeper", "kind": "reversed", "q": "What does she keep?", "a": "Ida Brandt"},
        {"fact": "steps", "kind": "direct", "q": "How many steps has it?", "a": "412"},
    ],
}
OTHER = {"id": "o", "text": "Corvo is old.", "pairs": [{"fact": "f", "kind": "direct", "q": "Is it old?", "a": "yes"}]}


def test_every_tenth_passage_is_kept_apart() -> None:
    held, taught = train.passages(held_out=True), train.passages(held_out=False)
    assert len(taught) == 9 * len(held)
    assert not {passage["text"] for passage in held} & {passage["text"] for passage in taught}


def pairs_of(turns: Conversation) -> list[tuple[str, str]]:
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
    return [(ask["content"], tell["content"]) for ask, tell in zip(turns[::2], turns[1::2], strict=True)]


@pytest.mark.parametrize("seed", range(6))
def test_a_reader_is_asked_each_fact_once_and_one_thing_that_is_not_stated(seed: int) -> None:
    asked = pairs_of(train.reader_lesson(PASSAGE, OTHER, random.Random(seed)))
    assert asked[0][0].startswith(f"{PASSAGE['text']}\n\n")
    assert sorted(answer for _, answer in asked) == sorted(["Ida Brandt", "412", prompts.NOT_STATED])
    unstated = next(question for question, answer in asked if answer == prompts.NOT_STATED)
    assert unstated.endswith("Is it old?")


def test_a_writer_lists_answers_and_writes_the_lessons_questions() -> None:
    first, *rest = pairs_of(train.writer_lesson(PASSAGE, OTHER, random.Random(0)))
    assert first == (prompts.list_answers(str(PASSAGE["text"]))[0]["content"], "Ida Brandt\n412")
    assert len(rest) == 3
    assert (prompts.ask_for("412", "direct")["content"], "How many steps has it?") in rest


def test_the_loss_is_on_the_assistants_words_and_its_end_of_turn(tiny: LocalModel) -> None:
    turns = train.reader_lesson(PASSAGE, OTHER, random.Random(0))
    encoded = train.encode(tiny.tokenizer, turns)
    text = tiny.tokenizer.apply_chat_template(turns, tokenize=False)
    assert tiny.tokenizer.decode(encoded.ids) == text.rstrip("\n")
    labels = [token for token, is_label in zip(encoded.ids, encoded.is_label, strict=True) if is_label]
    end = tiny.tokenizer.eos_token
    assert tiny.tokenizer.decode(labels) == "".join(answer + end for _, answer in pairs_of(turns))


def test_a_lesson_begins_with_the_tokens_that_the_model_will_see_in_use(tiny: LocalModel) -> None:
    turns: Conversation = [*prompts.read("Vell is old.", "Is it?"), prompts.assistant("yes")]
    encoded = train.encode(tiny.tokenizer, turns)
    assert encoded.ids[: encoded.is_label.index(True)] == tiny.encode(turns[:1])


def test_an_epoch_draws_each_passage_once(tiny: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = [{**PASSAGE, "text": f"Text number {n}."} for n in range(6)]
    monkeypatch.setattr(train, "passages", lambda **_: pool)

    def texts(seed: int) -> list[str]:
        found = train.batches(tiny.tokenizer, "writer", random.Random(seed), steps=4)
        return [tiny.decode(row.ids).split("Text number ")[1][0] for batch in found for row in batch]

    drawn = texts(0)
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == list("012345")
    assert drawn == texts(0) != texts(1)


def test_the_loss_is_that_of_each_row_alone(tiny_folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = LocalModel(tiny_folder, "float32")
    adapted: Any = get_peft_model(model.net, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    rows = [train.encode(model.tokenizer, train.writer_lesson(p, p, random.Random(0))) for p in (PASSAGE, OTHER)]
    with torch.no_grad():
        loss = train.loss_of(adapted, rows)
        parts = []
        for row in rows:
            logits = adapted(torch.tensor([row.ids])).logits[0, :-1]
            is_label = torch.tensor(row.is_label[1:])
            parts.append(F.cross_entropy(logits[is_label], torch.tensor(row.ids[1:])[is_label], reduction="none"))
    torch.testing.assert_close(loss, torch.cat(parts).mean(), rtol=1e-5, atol=1e-5)


def test_a_trained_adapter_is_small_tells_nothing_of_the_machine_and_loads(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "passages", lambda **_: [PASSAGE, OTHER, PASSAGE])
    out = tmp_path / "reader"
    train.train("reader", tiny_folder, out, epochs=2)
    assert "reader: step 0/2, loss " in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert {tensor.dtype for tensor in load_file(out / "adapter_model.safetensors").values()} == {torch.bfloat16}
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_folder.name
    assert str(tmp_path) not in json.dumps(config)
    adapted, base = LocalModel(tiny_folder, "float32", out), LocalModel(tiny_folder, "float32")
    question = [prompts.read("Vell is old.", "Is it?")]
    assert adapted.logprobs(question, ["yes"]) != base.logprobs(question, ["yes"])
    assert adapted.generate(question, Sampling(max_new_tokens=2))
