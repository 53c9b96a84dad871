"""Where knowledge comes from: the documents, update and decision behind a version, or behind one answer."""

from typing import Any, NamedTuple

from sqlalchemy.orm import Session
from transformers.utils import logging

from gate import registry
from lmt2 import asking
from lmt2.artifacts import ArtifactStore
from lmt2.config import Settings
from lmt2.events import UpdateRequest
from lmt2.ledger import Ledger, UpdateRow, VersionRow
from lmt2.models.assets import model_path
from lmt2.models.encoder import Encoder
from lmt2.scoring import normalise
from memory.routing import Router
from memory.shards import keys_of
from memory.versioned import general_of
from memory.versions import Manifest

Story = dict[str, Any]


class Routed(NamedTuple):
    """The place of the shard that a question goes to, and the answer of the expert that it calls there."""

    shard: int
    answer: str


def explain(settings: Settings, ledger: Ledger, address: str, what: str) -> Story:
    """The story of a version, if `what` is the name of one, else of the served answer to the question that it is."""
    with ledger.begin() as session:
        if session.get(VersionRow, what) is not None:
            return registry.explain(session, what)
    return _of_answer(settings, ledger, address, what)


def in_words(story: Story) -> str:
    """A story for people."""
    return "\n".join(_answer_in_words(story) if "answer" in story else _version_in_words(story))


def _of_answer(settings: Settings, ledger: Ledger, address: str, question: str) -> Story:
    """The answer, with the shard that gave it and the fact that it was sent to; none where the base answered alone."""
    answer = asking.ask(address, "lmt2", question)
    found: Story = {"question": question, "answer": answer.text, "version": answer.version, "shard": None, "facts": []}
    with ledger.begin() as session:
        row = session.get(VersionRow, answer.version)  # none: the base model answered
        routed = _route(settings, registry.manifest_of(row), question) if row and row.manifest["shards"] else None
        if routed is not None:
            shard = registry.explain(session, answer.version)["shards"][routed.shard]
            found |= {"shard": shard, "facts": _facts(session, shard["update"], routed.answer)}
    return found


def _facts(session: Session, update: str, answer: str) -> list[Story]:
    """Who said the answer that an expert gives, and in which words."""
    row = session.get(UpdateRow, update)
    lessons = UpdateRequest.model_validate(row.payload).lessons if row else ()
    said = {(x.document, x.sentence): x.answer for x in lessons if normalise(x.answer) == answer and x.sentence}
    return [{"document": document, "sentence": text, "answer": a} for (document, text), a in said.items()]


def _route(settings: Settings, manifest: Manifest, question: str) -> Routed | None:
    store = ArtifactStore(settings.artifacts_url)
    keys = [keys_of(store.get(entry.artifact)) for entry in manifest.shards]
    logging.disable_progress_bar()
    router = Router(keys, manifest.threshold, general_of(store, manifest))
    (route,) = router.route([question], Encoder(model_path(settings.model.encoder)))
    if route is None:
        return None
    answers = keys[route.shard].answers
    return Routed(route.shard, answers[route.expert] if answers else "")


def _answer_in_words(story: Story) -> list[str]:
    lines = [f"{story['question']}", f"  {story['answer']}", f"answered by {story['version']}"]
    if story["shard"] is None:
        return [*lines, "no document: the question is routed to the base model alone"]
    facts = [f"  {fact['answer']}: {fact['sentence']}  ({fact['document']})" for fact in story["facts"]]
    return [*lines, *(["from what was learnt of", *facts] if facts else []), *_shard_in_words(story["shard"])]


def _version_in_words(story: Story) -> list[str]:
    decision = story["decision"]
    verdict = f"{decision['verdict']}: {decision['detail']}" if decision else "no decision"
    served = ", served" if story["is_served"] else ""
    lines = [f"{story['id']}  {story['state']}{served}", f"  {verdict}"]
    lines += [f"  ancestors: {' ← '.join(story['lineage'][1:])}"] if story["lineage"][1:] else []
    return lines + [line for shard in story["shards"] for line in _shard_in_words(shard)]


def _shard_in_words(shard: Story) -> list[str]:
    names = [f"  {d['id']}  {d.get('title', '')}  ({d.get('state', 'unknown')})" for d in shard["documents"]]
    return [f"shard {shard['artifact'][:12]} of update {shard['update']}, taught by", *names]
