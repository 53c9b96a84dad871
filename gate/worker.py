"""The gate's work on one record: what to examine, the examination, the ruling."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sqlalchemy.orm import Session

from gate import evidence, registry
from gate.anchors import Anchors, choose, odd_general
from gate.evidence import Bench
from gate.examination import Examiner
from gate.promotion import Ruling, carry_out
from gate.verdict import Evidence, Judgement, figures, judge
from lmt2 import telemetry
from lmt2.artifacts import ArtifactStore
from lmt2.config import Settings
from lmt2.data import GeneralQuestion
from lmt2.errors import EventError
from lmt2.events import CANDIDATES, DECISIONS, Candidate, Decision, UpdateRequest, decode, encode
from lmt2.ledger import DecisionRow, Ledger, UpdateRow, VersionRow
from lmt2.models.encoder import Embeds
from lmt2.models.local import LocalModel
from lmt2.stage import Outcome, Worker
from lmt2.transport.base import Outgoing, Record
from memory.versioned import base_fingerprint
from memory.versions import Manifest, untouched


@dataclass(frozen=True)
class Plan:
    """What is to be examined, read from the ledger in one go."""

    candidate: Candidate
    request: UpdateRequest
    present: Manifest
    examined: Manifest
    anchors: Anchors


class GateWorker(Worker):
    """Decides candidates. `general` are the common questions that all are asked; by default the shipped odd ones."""

    name = "gate"
    topic = CANDIDATES

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: ArtifactStore,
        model: LocalModel,
        encoder: Embeds,
        general: Sequence[GeneralQuestion] | None = None,
    ) -> None:
        self._settings = settings.gate
        self._ledger = ledger
        self._base = untouched(base_fingerprint(model.folder))
        self._general = odd_general() if general is None else list(general)
        self._examiner = Examiner(store, model, encoder)
        self._log = telemetry.logger(self.name)

    def work(self, record: Record) -> Outcome:
        """Examine the candidate of a record and rule on it; one that was decided before leads to nothing."""
        candidate, _ = decode(record.value, Candidate, record.headers)
        while (plan := self._plan(candidate)) is not None:
            ruling = self._rule(plan)
            # An examination takes minutes. If somebody rolled back meanwhile, examine again on what is served now;
            # most answers are known by then. `carry_out` checks once more, under the ledger's lock.
            if self._is_current(plan):
                return self._outcome(plan, ruling)
        return Outcome()

    def _plan(self, candidate: Candidate) -> Plan | None:
        with self._ledger.begin() as session:
            row, update = session.get(VersionRow, candidate.version), session.get(UpdateRow, candidate.update)
            if row is None or update is None:
                raise EventError(f"the ledger has no version {candidate.version} of update {candidate.update}")
            if session.get(DecisionRow, row.id) is not None or row.state == "withdrawn":
                return None
            request = UpdateRequest.model_validate(update.payload)
            present = registry.manifest_of(registry.present(session))
            examined = rebased(registry.manifest_of(row), request, present)
            anchors = choose(session, request, present, self._general, self._settings)
            return Plan(candidate, request, present, examined, anchors)

    def _is_current(self, plan: Plan) -> bool:
        with self._ledger.begin() as session:
            return registry.present(session).id == plan.present.id

    def _rule(self, plan: Plan) -> Ruling:
        if judgement := overtaken(plan.examined, plan.request, plan.present):
            return Ruling(plan.candidate.version, plan.examined, plan.request, judgement, {"scores": {}})
        found: Evidence | None = None
        report: dict[str, Any] = {"fingerprint": plan.anchors.fingerprint}
        try:
            bench = Bench(plan.examined, plan.present, self._pinned_best(plan), self._base)
            found = evidence.gather(self._examiner, bench, plan.anchors)
            report |= {"pinned_best": bench.best.id, "lost": evidence.lost(self._examiner, bench, plan.anchors)}
        except OSError:
            raise  # disk, database or network: not the candidate's fault
        except Exception:  # noqa: BLE001 - whatever else goes wrong: what can't be examined isn't promoted
            self._log.exception("examination failed", version=plan.examined.id)
        report["scores"] = figures(found, self._settings)
        return Ruling(plan.candidate.version, plan.examined, plan.request, judge(found, self._settings), report)

    def _pinned_best(self, plan: Plan) -> Manifest:
        """What the candidate is compared with; a removal doesn't answer for declines that came before it."""
        if plan.request.retracts:
            return plan.present
        hits = self._examiner.hits
        measured = {m.id: fmean(hits(m, plan.anchors.general)) for m in (plan.present, self._base)}
        with self._ledger.begin() as session:
            name = registry.pinned_best(session, plan.present.id, measured, plan.anchors.fingerprint)
            return registry.manifest_of(registry.version(session, name))

    def _outcome(self, plan: Plan, ruling: Ruling) -> Outcome:
        judgement, scores = ruling.judgement, ruling.report["scores"]

        def effect(session: Session) -> None:
            if carry_out(session, ruling):
                telemetry.gate_decisions_total.labels(judgement.verdict, judgement.reason).inc()

        self._log.info(judgement.verdict, version=ruling.examined.id, reason=judgement.reason, detail=judgement.detail)
        if "committee" in scores:
            telemetry.gate_score.set(scores["committee"])
        decision = Decision(
            version=ruling.examined.id,
            update=ruling.request.id,
            verdict=judgement.verdict,
            reason=judgement.reason,
            scores=scores,
            event_time=plan.candidate.event_time,
        )
        value = encode(decision, id=decision.version, source="lmt2/gate")
        return Outcome(effect, (Outgoing(DECISIONS, value, key=decision.update.encode()),))


def rebased(manifest: Manifest, request: UpdateRequest, present: Manifest) -> Manifest:
    """The candidate on top of what is served now.

    Another version may have been promoted, or rolled back, since the learner made this one. Promoting it as it
    is would drop the other's documents; so its shard, which depends on no other, is put on the present version.
    The threshold was set for other sets of keys: of the two the stricter one lets fewer general questions pass,
    except that a version without shards routes nothing and its threshold means nothing.

    A removal may have nothing left to remove, after a rollback or when another update was quicker. Then no shard may
    go, for those that it would replace teach other documents now.
    """
    taught = {name for shard in present.shards for name in shard.documents}
    if request.retracts and not taught & set(request.retracts):
        return present.replace((), None, present.threshold)
    if manifest.parent == present.id:
        return manifest
    entry = next((shard for shard in manifest.shards if shard.update == request.id), None)
    threshold = max(manifest.threshold, present.threshold) if present.shards else manifest.threshold
    return present.replace(request.replaces, entry, threshold, manifest.general)


def overtaken(examined: Manifest, request: UpdateRequest, present: Manifest) -> Judgement | None:
    """The verdict on a candidate that newer ones were quicker than; none if its place is still its own.

    Updates that share documents may be decided in another order than they were asked for. An older one must not teach
    again what a newer one corrected, nor take along what a newer one taught.
    """
    teaching = Counter(name for shard in examined.shards for name in shard.documents)
    again = sorted(name for name, shards in teaching.items() if shards > 1)
    taken = {name for shard in present.shards for name in shard.documents} - teaching.keys() - set(request.retracts)
    told = [f"{', '.join(again)} would be taught twice"] if again else []
    told += [f"{', '.join(sorted(taken))} would be lost"] if taken else []
    if not told:
        return None
    return Judgement("inconclusive", "overtaken", f"a newer update is served already: {'; '.join(told)}")
