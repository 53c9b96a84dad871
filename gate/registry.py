"""Versions and their states, the pinned best, and who taught what.

A version is born a `candidate` and is decided once: `accepted`, `rejected` or `inconclusive`. Nothing leads out
of those three. What is served is not a state of a version but the newest promotion.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from lmt2.errors import LMT2Error
from lmt2.events import Verdict
from lmt2.ledger import DecisionRow, DocumentRow, UpdateRow, VersionRow, desired_version
from memory.versions import Manifest

STATE_AFTER: Mapping[Verdict, str] = {"accept": "accepted", "reject": "rejected", "inconclusive": "inconclusive"}


class Refused(LMT2Error, ValueError):
    """A change that the state of a version doesn't allow."""


class UnknownVersion(Refused, LookupError):
    """There is no version of that name."""


def version(session: Session, name: str) -> VersionRow:
    """A version's row; raises UnknownVersion."""
    row = session.get(VersionRow, name)
    if row is None:
        raise UnknownVersion(f"there is no version {name}; `lmt2 versions` lists them")
    return row


def manifest_of(row: VersionRow) -> Manifest:
    """What a version consists of."""
    return Manifest.model_validate(row.manifest)


def present(session: Session) -> VersionRow:
    """The version that should be served; raises Refused before there is one."""
    name = desired_version(session)
    if name is None:
        raise Refused("nothing was promoted yet, not even the base model: start `lmt2 up` or a stage once")
    return version(session, name)


def lock_present(session: Session) -> VersionRow:
    """The same, held until the transaction ends, so that nobody else replaces it meanwhile.

    An update that changes nothing locks the row in Postgres and the whole database in SQLite; it may have had to
    wait for somebody else's promotion, so the question is asked once more.
    """
    row = present(session)
    session.execute(update(VersionRow).where(VersionRow.id == row.id).values(state=row.state))
    return present(session)


def add(session: Session, manifest: Manifest, update_id: str | None, state: str) -> VersionRow:
    """A version's row, made if it isn't there."""
    row = session.get(VersionRow, manifest.id)
    if row is None:
        content = manifest.model_dump(mode="json")
        row = VersionRow(id=manifest.id, parent=manifest.parent, update_id=update_id, state=state, manifest=content)
        session.add(row)
        session.flush()
    return row


def settle(row: VersionRow, verdict: Verdict) -> None:
    """Move a candidate to its final state; raises Refused if it was decided before."""
    if row.state != "candidate":
        raise Refused(f"version {row.id} is {row.state}: only a candidate can be decided")
    row.state = STATE_AFTER[verdict]


def lineage(session: Session, name: str | None) -> Iterator[VersionRow]:
    """A version and its ancestors, the newest first, down to the untouched base."""
    while name is not None and (row := session.get(VersionRow, name)) is not None:
        yield row
        name = row.parent


def pinned_best(session: Session, present: str, measured: Mapping[str, float], fingerprint: str) -> str:
    """The version that a candidate is compared with: the best on general questions in the line of what is served.

    Compared with its parent alone, twenty candidates could each be a little worse than the one before. All
    ancestors of the present version were promoted; those that were rolled back are not among them. Their scores
    come from their decisions, as far as the same questions were asked (`fingerprint`); `measured` has those that
    were asked again now. Of equals the newest wins, since it has learnt more.
    """
    best, height = present, measured[present]
    for row in lineage(session, present):
        share = measured[row.id] if row.id in measured else _recorded(session, row.id, fingerprint)
        if share > height:
            best, height = row.id, share
    return best


def versions(session: Session, limit: int = 200) -> list[dict[str, Any]]:
    """Versions, the newest first."""
    served = desired_version(session)
    rows = session.scalars(select(VersionRow).order_by(VersionRow.created_at.desc(), VersionRow.id).limit(limit))
    return [_brief(row, served) for row in rows]


def decisions(session: Session, limit: int = 200) -> list[dict[str, Any]]:
    """Decisions, the newest first."""
    rows = session.scalars(select(DecisionRow).order_by(DecisionRow.created_at.desc()).limit(limit))
    return [_decision(row) for row in rows]


def explain(session: Session, name: str) -> dict[str, Any]:
    """A version, the decision on it, and for each shard who taught it what; raises UnknownVersion."""
    row = version(session, name)
    decision = session.get(DecisionRow, name)
    return {
        **_brief(row, desired_version(session)),
        "lineage": [ancestor.id for ancestor in lineage(session, name)],
        "decision": None if decision is None else _decision(decision),
        "shards": [
            {
                "artifact": shard.artifact,
                "update": shard.update,
                "figures": getattr(session.get(UpdateRow, shard.update), "figures", {}),
                "documents": [_document(session, document) for document in shard.documents],
            }
            for shard in manifest_of(row).shards
        ],
    }


def _recorded(session: Session, name: str, fingerprint: str) -> float:
    """The share of general questions that a version had right when it was decided; 0 if others were asked."""
    decision = session.get(DecisionRow, name)
    if decision is None or decision.report.get("fingerprint") != fingerprint:
        return 0.0
    scores = decision.report["scores"]
    return float(scores["general_after"] / scores["general"])


def _brief(row: VersionRow, served: str | None) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": row.state,
        "is_served": row.id == served,
        "parent": row.parent,
        "update": row.update_id,
        "shards": len(row.manifest["shards"]),
        "created_at": row.created_at.isoformat(),
    }


def _decision(row: DecisionRow) -> dict[str, Any]:
    return {
        "version": row.version_id,
        "verdict": row.verdict,
        "reason": row.reason,
        **row.report,
        "created_at": row.created_at.isoformat(),
    }


def _document(session: Session, name: str) -> dict[str, Any]:
    row = session.get(DocumentRow, name)
    if row is None:
        return {"id": name}
    return {"id": name, "title": row.payload.get("title", ""), "state": row.state, "reason": row.reason}
