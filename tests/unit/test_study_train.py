"""Training of the study skills: sound lessons, what is asked, where the loss is, and an adapter that can be shipped."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lmt2.models.base import Sampling
from lmt2.models.local import LocalModel
from lmt2.study import prompts, train
from lmt2.study.lessons import stands_in
from lmt2.study.passages import sentences

PASSAGE: dict[str, Any] = {
    "id": "p",
    "text": "Ida Brandt keeps the lamp at Vell. Tom Hale keeps the one at Corvo. Vell has 412 steps.",
    "pairs": [
        {"fact": "keeper", "kind": "direct", "q": "Who keeps the lamp at Vell?", "a": "Ida Brandt"},
        {"fact": "keeper", "kind": "rephrased", "q": "Whose job is the light of Vell?", "a": "Ida Brandt"},
        {"fact": "keeper", "kind": "reversed", "q": "Which place has Ida Brandt for its lamp?", "a": "Vell"},
        {"fact": "other keeper", "kind": "direct", "q": "Who keeps the lamp at Corvo?", "a": "Tom Hale"},
        {"fact": "steps", "kind": "direct", "q": "How many steps has Vell?", "a": "412"},
        {"fact": "steps", "kind": "composed", "q": "How many steps are there where Ida Brandt works?", "a": "412"},
    ],
    "unanswered": ["When was the lamp at Vell lit?"],
}
OTHER: dict[str, Any] = {
    "id": "o",
    "text": "Corvo is old.",
    "pairs": [{"fact": "f", "kind": "direct", "q": "Is it old?", "a": "old"}],
}
TEXT = str(PASSAGE["text"])


def everything() -> list[train.Passage]:
    return [*train.passages(held_out=True), *train.passages(held_out=False)]


def test_every_tenth_passage_is_kept_apart() -> None:
    held, taught = train.passages(held_out=True), train.passages(held_out=False)
    assert len(held) == -(-len(held + taught) // 10)
    assert not {passage["text"] for passage in held} & {passage["text"] for passage in taught}
    assert {passage["id"][0] for passage in held} == {"n", "p"}, "some of both styles"


def test_every_shipped_lesson_can_be_learnt_from() -> None:
    for passage in everything():
        questions = [pair["q"] for pair in passage["pairs"]]
        assert len(set(questions)) == len(questions), passage["id"]
        for pair in passage["pairs"]:
            assert pair["kind"] in {"direct", "rephrased", "reversed", "composed"}, pair
            assert stands_in(pair["a"], passage["text"]), pair
            assert not stands_in(pair["a"], pair["q"]), pair
            assert len(pair["a"].split()) <= 8, pair
        for question in [*questions, *passage.get("unanswered", [])]:
            assert question.endswith("?"), question
            assert not re.search(r"\b(this|the) (text|passage|document|article)\b", question, re.I), question


@pytest.mark.parametrize("seed", range(6))
def test_a_reader_is_asked_what_is_stated_and_what_only_sounds_like_it(seed: int) -> None:
    found = train.reader_tasks(PASSAGE, OTHER, random.Random(seed))
    asked = {task.asked[0]["content"]: task.answer for task in found}
    assert all(task.startswith(f"{TEXT}\n\n") for task in asked)
    questions = {task.removeprefix(f"{TEXT}\n\n"): a for task, a in asked.items() if not task.endswith("right?")}
    assert {pair["q"]: pair["a"] for pair in PASSAGE["pairs"]}.items() <= questions.items()
    unstated = {question for question, answer in questions.items() if answer == prompts.NOT_STATED}
    assert {"Is it old?", "When was the lamp at Vell lit?"} < unstated
    assert len(unstated) == 3, "and one in which a name stands in another's place"


def test_a_question_with_another_name_in_it_is_not_answered() -> None:
    pair = PASSAGE["pairs"][2]
    found = {train._other_subject(pair, PASSAGE, random.Random(seed)) for seed in range(9)}
    assert found == {"Which place has Tom Hale for its lamp?"}


@pytest.mark.parametrize("seed", range(6))
def test_a_judge_sees_right_pairs_and_mixed_up_ones(seed: int) -> None:
    verdicts = {prompts.RIGHT: 0, prompts.WRONG: 0}
    own = {(pair["q"], pair["a"]) for pair in PASSAGE["pairs"]}
    for task, verdict, _ in train.judge_tasks(PASSAGE, random.Random(seed)):
        verdicts[verdict] += 1
        matching = [pair for pair in own if task == prompts.judge(TEXT, *pair)]
        assert bool(matching) == (verdict == prompts.RIGHT)
    assert verdicts[prompts.RIGHT] == train.JUDGED


def test_a_judge_learns_first_from_what_a_writer_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[dict[str, Any]] = [
        {"question": f"Which lamp is number {n}?", "answer": "412", "right": n < 3} for n in range(6)
    ]
    monkeypatch.setattr(train, "marked", lambda: {"p": marked})
    found = {str(task): verdict for task, verdict, _ in train.judge_tasks(PASSAGE, random.Random(0))}
    expected = {str(prompts.judge(TEXT, row["question"], row["answer"])): row["right"] for row in marked}
    assert {task: verdict == prompts.RIGHT for task, verdict in found.items()} == expected


def test_every_marked_pair_belongs_to_a_lesson_that_is_trained_on_and_every_repair_is_sound() -> None:
    texts = {passage["id"]: passage["text"] for passage in train.passages(held_out=False)}
    assert set(train.marked()) <= set(texts)
    for row in (row for rows in train.marked().values() for row in rows if "better" in row):
        answer = row.get("better_answer", row["answer"])
        assert not row["right"]
        assert row["better"].endswith("?")
        assert stands_in(answer, texts[row["passage"]]), row
        assert not stands_in(answer, row["better"]), row


def test_a_writer_lists_answers_by_sentence_writes_each_kind_and_rephrases() -> None:
    drawn = [task for seed in range(20) for task in train.writer_tasks(PASSAGE, OTHER, random.Random(seed))]
    tasks = {task.asked[0]["content"]: task.answer for task in drawn}
    first, _, last = sentences(TEXT)

    def asked(task: Any) -> str:
        return tasks.get(task[0]["content"], "")

    assert asked(prompts.list_answers(TEXT, first)) == "Ida Brandt"
    assert asked(prompts.ask_for(TEXT, last, "412", "direct")) == "How many steps has Vell?"
    assert asked(prompts.ask_for(TEXT, last, "412", "composed")) == "How many steps are there where Ida Brandt works?"
    reversed_task = prompts.ask_for(TEXT, first, "Ida Brandt", "reversed")
    assert asked(reversed_task) == "Which place has Ida Brandt for its lamp?\nVell"
    otherwise = prompts.ask_otherwise(TEXT, "Who keeps the lamp at Vell?", "Ida Brandt")
    assert asked(otherwise) == "Whose job is the light of Vell?"


def test_a_writer_sees_its_own_mistakes_beside_what_it_should_have_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    last, kinds = sentences(TEXT)[-1], ("direct", "reversed", "rephrased")
    asked_for = {"sentence": last, "given": "412", "answer": "Vell"}
    rows: list[dict[str, Any]] = [
        asked_for | {"kind": kind, "question": f"{kind}?", "right": False, "better": f"Better {kind}?"}
        for kind in kinds
    ]
    rows += [asked_for | {"kind": "composed", "question": "Right?", "right": True}, rows[0] | {"better": ""}]
    monkeypatch.setattr(train, "marked", lambda: {"p": rows})
    tasks = train.writer_tasks(PASSAGE, OTHER, random.Random(0))[-4:]
    assert {(task.answer, task.rejected) for task in tasks} == {
        ("Better direct?", "direct?"),
        ("Better reversed?\nVell", "reversed?\nVell"),
        ("Better rephrased?", "rephrased?"),
        ("Right?", ""),
    }
    assert prompts.ask_otherwise(TEXT, "412", "Vell") in [task.asked for task in tasks]


def test_an_epoch_draws_each_passage_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = [{**PASSAGE, "text": f"Text number {n}. {TEXT}"} for n in range(6)]
    monkeypatch.setattr(train, "passages", lambda **_: pool)

    def texts(seed: int) -> list[str]:
        found = train.rows("writer", random.Random(seed), steps=12)
        return [row[0].asked[0]["content"].split("Text number ")[1][0] for row in found]

    drawn = texts(0)
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == list("012345")
    assert drawn == texts(0) != texts(1)


def test_the_loss_of_a_row_is_that_of_each_task_alone(tiny_folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = LocalModel(tiny_folder, "float32")
    adapted: Any = get_peft_model(model.net, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    tasks = train.writer_tasks(PASSAGE, OTHER, random.Random(0))

    def surprise(task: train.Task, text: str) -> torch.Tensor:
        prompt, answer = model.encode(task.asked), [*model.encode_text(text), model.tokenizer.eos_token_id]
        logits = adapted(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        return F.cross_entropy(logits, torch.tensor(answer), reduction="none")

    with torch.no_grad():
        alone = torch.cat([surprise(task, task.answer) for task in tasks]).mean()
        torch.testing.assert_close(train.loss_of(adapted.base_model.model, model, tasks), alone, rtol=1e-5, atol=1e-5)
        tasks[1] = tasks[1]._replace(rejected="Who?")
        likely = [(-surprise(tasks[1], text).mean()).exp() for text in (tasks[1].answer, "Who?")]
        better, worse = (p / (1 - p) for p in likely)
        expected = alone + train.PREFERENCE * torch.log1p(worse / better)
        loss = train.loss_of(adapted.base_model.model, model, tasks)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_a_trained_adapter_is_small_tells_nothing_of_the_machine_and_loads(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "passages", lambda **_: [PASSAGE, OTHER, PASSAGE])
    out = tmp_path / "reader"
    train.train("reader", tiny_folder, out, epochs=2)
    assert "reader: step 0/6, loss " in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert {tensor.dtype for tensor in load_file(out / "adapter_model.safetensors").values()} == {torch.bfloat16}
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_folder.name
    assert str(tmp_path) not in json.dumps(config)
    adapted, base = LocalModel(tiny_folder, "float32", out), LocalModel(tiny_folder, "float32")
    question = [prompts.read("Vell is old.", "Is it?")]
    assert adapted.logprobs(question, ["yes"]) != base.logprobs(question, ["yes"])
    assert adapted.generate(question, Sampling(max_new_tokens=2))
