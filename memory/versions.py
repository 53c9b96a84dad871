"""A version of the model: the base, plus the set of active shards, plus the router's threshold.

A version is a manifest of a few kilobytes and is named by its content. Promotion moves the name, rollback is
the earlier name, and retracting a document whose shard is its own drops one line.
"""

import hashlib
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

SCHEMA = 1


class ShardEntry(BaseModel):
    """One shard of a version: its artifact, the documents it teaches, and the update that made it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: str
    documents: tuple[str, ...]
    update: str


class Manifest(BaseModel):
    """An immutable version.

    `general` is the artifact with the embeddings of the general questions that the router compares with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    base: str
    threshold: float
    general: str | None = None
    shards: tuple[ShardEntry, ...] = ()
    parent: str | None = None

    @property
    def id(self) -> str:
        """The version's name: `v-` and the first twelve digits of the content's SHA-256."""
        return "v-" + hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def replace(
        self, gone: Sequence[str], entry: ShardEntry | None, threshold: float, general: str | None = None
    ) -> "Manifest":
        """The child version without the shards that teach a document of `gone`, and with a new one."""
        kept = tuple(s for s in self.shards if not set(s.documents) & set(gone))
        return Manifest(
            base=self.base,
            threshold=threshold,
            general=general or self.general,
            shards=kept if entry is None else (*kept, entry),
            parent=self.id,
        )


def untouched(base: str) -> Manifest:
    """The first version: the base model and no shard."""
    return Manifest(base=base, threshold=1.0)
