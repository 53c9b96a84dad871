"""A ledger as the stages before the gate leave it: documents, an update request, a candidate version."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.orm import Session

from gate import registry
from gate.promotion import Ruling, carry_out
from gate.verdict import Judgement
from lmt2.events import CANDIDATES, Candidate, Document, Lesson, UpdateRequest, Verdict, encode
from lmt2.ledger import DocumentRow, Ledger, PromotionRow, UpdateRow, VersionRow
from lmt2.transport.base import Record
from memory.versions import Manifest, ShardEntry

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
VERDICTS: dict[Verdict, Judgement] = {
    "accept": Judgement("accept", "accepted", "all is well"),
    "reject": Judgement("reject", "forgets", "5 facts gone"),
    "inconclusive": Judgement("inconclusive", "needs-more-anchors", "4 probes"),
}


def new_ledger(folder: Path, base: Manifest) -> Ledger:
    """A ledger in a folder, in which the base is served."""
    ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
    ledger.migrate()
    with ledger.begin() as session:
        registry.add(session, base, None, "accepted")
        session.add(PromotionRow(version_id=base.id, cause="initial", decision=f"initial {base.id}"))
    return ledger


def probe(question: str, answer: str, document: str) -> Lesson:
    """A held-back question."""
    return Lesson(question=question, answer=answer, kind="rephrased", document=document)


def request(
    session: Session, update: str, documents: Sequence[str], probes: Sequence[Lesson] = (), replaces: Sequence[str] = ()
) -> UpdateRequest:
    """An update that the consumer asked for, with its documents; those that are known already stay as they are."""
    asked = UpdateRequest(
        id=update,
        documents=tuple(Document(id=name, text=f"text of {name}") for name in documents),
        lessons=(),
        probes=tuple(probes),
        replaces=tuple(replaces),
        reason="conflict",
        event_time=WHEN,
    )
    for document in asked.documents:
        if session.get(DocumentRow, document.id) is None:
            session.add(_row(document))
    session.add(UpdateRow(id=update, state="trained", payload=asked.model_dump(mode="json")))
    return asked


def candidate(
    session: Session, parent: Manifest, asked: UpdateRequest, artifact: str, threshold: float = 0.5
) -> Manifest:
    """A version that the learner made for an update; the removal of all of a shard's documents makes no other."""
    entry = ShardEntry(artifact=artifact, documents=asked.teaches, update=asked.id) if asked.documents else None
    manifest = parent.replace(asked.replaces, entry, threshold)
    content = manifest.model_dump(mode="json")
    session.add(VersionRow(id=manifest.id, parent=parent.id, update_id=asked.id, state="candidate", manifest=content))
    return manifest


def record(manifest: Manifest, update: str) -> Record:
    """The learner's event."""
    event = Candidate(version=manifest.id, update=update, parent=str(manifest.parent), event_time=WHEN)
    return Record(CANDIDATES, 0, 0, encode(event, id=manifest.id, source="lmt2/learner"))


def ruling(examined: Manifest, asked: UpdateRequest, verdict: Verdict, made: Manifest | None = None) -> Ruling:
    """A verdict on a candidate, examined as `examined` if it had to be rebased from what was `made`."""
    report = {"scores": {}, "fingerprint": "f"}
    return Ruling((made or examined).id, examined, asked, VERDICTS[verdict], report)


def decided(ledger: Ledger, parent: Manifest, name: str, verdict: Verdict = "accept") -> Manifest:
    """A candidate for document `doc-NAME`, made and decided."""
    with ledger.begin() as session:
        asked = request(session, f"u-{name}", [f"doc-{name}"])
        manifest = candidate(session, parent, asked, artifact=name)
    with ledger.begin() as session:
        carry_out(session, ruling(manifest, asked, verdict))
    return manifest


def _row(document: Document) -> DocumentRow:
    return DocumentRow(
        id=document.id,
        event_key=document.id,
        content_hash=document.content_hash,
        place="",
        payload=document.model_dump(mode="json"),
        state="requested",
        event_time=WHEN,
    )
