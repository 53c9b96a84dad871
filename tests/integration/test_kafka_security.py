"""Kafka over TLS, with SCRAM users and with certificates of clients, on a real broker."""

import logging
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from lmt2.config import KafkaSettings
from lmt2.errors import TransportError
from lmt2.events import Document, decode, encode
from lmt2.transport.base import Outgoing
from lmt2.transport.kafka import CONNECT_MS, KafkaTransport
from tests.support.kafka import require_jars
from tests.support.kafka_security import MUTUAL, PASSWORD, USERNAME, SecureBroker, secure_broker

pytestmark = pytest.mark.kafka
SECONDS = 60  # a group's first member waits for the broker's coordinator
SOON = CONNECT_MS / 1000 / 2  # while a broker that isn't there is waited for to the end
WRONG = "wr0ng-Pa55"
MILL = Document(id="mill", text="The mill at Arden was built in 1871.")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    with secure_broker(require_jars(), tmp_path_factory.mktemp("certificates")) as started:
        yield started


def settings(broker: SecureBroker, listener: str, **more: Any) -> KafkaSettings:
    """What a client that may use the listener is given, and changes to that."""
    given = {"bootstrap": broker.addresses[listener], "security": "SSL", "ca_file": str(broker.authority.file)}
    if listener == "SASL_SSL":
        given |= {"security": "SASL_SSL", "username": USERNAME, "password": PASSWORD}
    if listener == MUTUAL:
        given |= {"cert_file": str(broker.client.file), "key_file": str(broker.client.key)}
    return KafkaSettings.model_validate(given | more)


@pytest.mark.parametrize("listener", ["SSL", "SASL_SSL", MUTUAL])
def test_a_document_goes_in_and_comes_out(broker: SecureBroker, listener: str) -> None:
    transport = KafkaTransport(settings(broker, listener))
    topic = f"test.{uuid.uuid4().hex}"
    transport.create_topics([topic])
    producer = transport.producer()
    producer.send([Outgoing(topic, encode(MILL, id="e-1", source="test"))])
    producer.close()
    consumer = transport.consumer(topic, f"group.{topic}")
    records, deadline = consumer.poll(0.1, 1), time.monotonic() + SECONDS
    while not records and time.monotonic() < deadline:
        records = consumer.poll(0.1, 1)
    consumer.commit(records)
    consumer.close()
    assert decode(records[0].value, Document)[0] == MILL


@pytest.mark.parametrize(
    ("listener", "changes", "told"),
    [
        ("SASL_SSL", {"password": WRONG}, r"invalid credentials.*check kafka\.username"),
        ("SASL_SSL", {"username": "nobody"}, r"invalid credentials.*check kafka\.username"),
        ("SASL_SSL", {"sasl_mechanism": "PLAIN"}, r"UnsupportedSaslMechanism.*check kafka\.username"),
        ("SSL", {"ca_file": "stranger"}, r"CERTIFICATE_VERIFY_FAILED.*check kafka\.ca_file"),
        ("SSL", {"ca_file": "missing.pem"}, r"No such file.*check kafka\.ca_file"),
        ("SSL", {"security": "PLAINTEXT"}, r"check kafka\.security"),
        (MUTUAL, {"cert_file": ""}, r"certificate.*kafka\.cert_file"),
    ],
)
def test_who_may_not_is_told_so_at_once_and_what_to_do(
    broker: SecureBroker,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    listener: str,
    changes: dict[str, str],
    told: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    if changes.get("ca_file") == "stranger":
        changes = {"ca_file": str(broker.stranger.file)}
    given = settings(broker, listener, **changes)
    transport, start = KafkaTransport(given), time.monotonic()
    for attempt in (transport.producer, lambda: transport.consumer("t", "g"), lambda: transport.create_topics(["t"])):
        with pytest.raises(TransportError, match=told) as raised:
            attempt()
        assert time.monotonic() - start < SOON
        start = time.monotonic()
        printed = capsys.readouterr()
        spoken = f"{raised.getrepr(style='short')}{caplog.text}{printed.out}{printed.err}"
        assert given.bootstrap in spoken
        assert not given.password or given.password not in spoken
