"""`lmt2 quarantine`: documents that were kept out, and letting one in after all."""

from typing import Annotated

import typer

from lmt2.commands.common import (
    ConfigOption,
    HomeOption,
    JsonOption,
    KafkaOption,
    find_site,
    out,
    own_headers,
    print_json,
    print_table,
    send,
)
from lmt2.errors import ConfigError, StorageError
from lmt2.events import DOCUMENTS, QUARANTINE


def show(home: HomeOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the documents that were kept out, and why; the newest first."""
    from sqlalchemy import select

    from lmt2.ledger import DocumentRow

    kept_out = select(DocumentRow).where(DocumentRow.state == "quarantined").order_by(DocumentRow.changed_at.desc())
    with find_site(home, config).ledger().begin() as session:
        found = [
            {"id": row.id, "reason": row.reason, "title": row.document.title, "since": row.changed_at.isoformat()}
            for row in session.scalars(kept_out)
        ]
    if as_json:
        print_json(found)
        return
    rows = [[x["id"], x["reason"], x["title"], x["since"][:19].replace("T", " ")] for x in found]
    print_table(f"{len(found)} documents", ["document", "reason", "title", "since"], rows)


def release(
    document: Annotated[str, typer.Argument(help="Its id.")],
    home: HomeOption = None,
    config: ConfigOption = None,
    kafka: KafkaOption = "",
) -> None:
    """Let a document in after all: it is studied anew, and learnt whatever it was kept out for.

    The gate examines what comes of it like anything else. The command may be given again if it was cut off.
    """
    from lmt2.ledger import DocumentRow
    from lmt2.transport import open_transport
    from lmt2.transport.base import Outgoing

    site = find_site(home, config, kafka)
    ledger = site.ledger()
    transport = open_transport(site.settings)
    with ledger.begin() as session:
        row = session.get(DocumentRow, document)
        if row is None or row.state not in ("quarantined", "released"):
            raise ConfigError(f"{document} is not in quarantine: see `lmt2 quarantine list`")
        reason, row.state = row.reason, "released"
    records = [x for x in transport.read_all(QUARANTINE) if x.key == document.encode()]
    if not records:
        raise StorageError(f"the topic {QUARANTINE} no longer holds {document}: produce it again, it will be let in")
    send(transport, [Outgoing(DOCUMENTS, records[-1].value, records[-1].key, own_headers(records[-1]))])
    out.print(f"released: {document}, which was kept out for {reason}")
