"""Questions to a serving address, and how their answers are counted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse

from lmt2.asking import ask_all
from lmt2.cli import main
from lmt2.errors import ServingError
from tests.support.http import running

KNOWN = {"lmt2": {"Who?": "Ann Bell.", "Where?": "In Arden."}, "base": {"Who?": "Nobody.", "Where?": "In Arden."}}


@pytest.fixture
def address() -> Iterator[str]:
    """A serving address that knows two answers."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    def answer(body: dict[str, Any]) -> Any:
        assert body["temperature"] == 0
        question = body["messages"][-1]["content"]
        if question == "Too long?":
            return JSONResponse({"error": {"message": "the prompt is too long"}}, 400)
        if question == "Broken?":
            raise HTTPException(500)
        content = KNOWN[body["model"]].get(question, "No idea.")
        return {"choices": [{"message": {"content": content}}], "system_fingerprint": "v-1"}

    with running(app) as address:
        yield address


def evaluate(address: str, file: Path, *options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMT2_SERVING_PORT", address.rpartition(":")[2])
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(file), "--home", str(file.parent), *options])
    assert end.value.code == 0


def test_answers_are_scored_by_kind(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"q": "Who?", "a": "Ann Bell", "kind": "direct", "doc": "other fields don't matter"},
        {"q": "Where?", "a": ["Brook", "Arden"], "kind": "direct"},
        {"q": "Why?", "a": "because", "kind": "reversed"},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    evaluate(address, file, "--json", monkeypatch=monkeypatch)
    report = json.loads(capsys.readouterr().out)
    assert report["kinds"] == {
        "direct": {"right": 2, "questions": 2},
        "reversed": {"right": 0, "questions": 1},
    }
    assert [answer["is_right"] for answer in report["answers"]] == [True, True, False]
    evaluate(address, file, "--base", "--json", monkeypatch=monkeypatch)
    assert json.loads(capsys.readouterr().out)["right"] == 1
    evaluate(address, file, monkeypatch=monkeypatch)
    assert "67%" in capsys.readouterr().out


def test_many_questions_keep_their_order(address: str) -> None:
    asked = ["Who?", "Where?", "Why?"] * 20
    heard: list[int] = []
    answers = ask_all(address, "lmt2", asked, on_answer=lambda: heard.append(1))
    assert [answer.text for answer in answers] == ["Ann Bell.", "In Arden.", "No idea."] * 20
    assert len(heard) == 60


def test_a_refusal_is_passed_on_in_words(address: str) -> None:
    with pytest.raises(ServingError, match="the prompt is too long"):
        ask_all(address, "lmt2", ["Too long?"])
    with pytest.raises(ServingError, match="500"):
        ask_all(address, "lmt2", ["Broken?"])
