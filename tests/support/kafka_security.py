"""A real broker with TLS, SCRAM users and certificates of clients; everything it trusts is made for the test."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.kafka import jvm_broker
from tests.support.parts import program

USERNAME, PASSWORD = "writer", "s3cret-Pa55"
MUTUAL = "MUTUAL"  # the listener that asks clients for a certificate


@dataclass(frozen=True)
class Certificate:
    """Two PEM files."""

    file: Path
    key: Path


@dataclass(frozen=True)
class SecureBroker:
    """Where the broker answers, by listener (SSL, SASL_SSL, MUTUAL), and what a client needs to get in."""

    addresses: dict[str, str]
    authority: Certificate
    client: Certificate
    stranger: Certificate  # an authority that nobody here trusts


@contextmanager
def secure_broker(libs: Path, folder: Path) -> Iterator[SecureBroker]:
    """A JVM broker; its certificates are made in `folder`."""
    authority, stranger = make_authority(folder, "authority"), make_authority(folder, "stranger")
    broker, client = make_certificate(folder, "broker", authority), make_certificate(folder, "client", authority)
    store = folder / "broker-store.pem"
    store.write_text(broker.key.read_text() + broker.file.read_text())
    user = f"SCRAM-SHA-512=[name={USERNAME},password={PASSWORD}]"
    listeners, settings = ("SSL", "SASL_SSL", MUTUAL), properties(store, authority.file)
    with jvm_broker(libs, listeners, settings, ("--add-scram", user)) as addresses:
        yield SecureBroker(addresses, authority, client, stranger)


def properties(store: Path, authority: Path) -> str:
    """What the listeners need."""
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    protocols = f"CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,{MUTUAL}:SSL"
    return f"""
listener.security.protocol.map={protocols}
ssl.keystore.type=PEM
ssl.keystore.location={store}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
listener.name.{MUTUAL.lower()}.ssl.client.auth=required
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={scram}
"""


def make_authority(folder: Path, name: str) -> Certificate:
    """A certificate that signs itself, and others."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    _openssl("req", "-x509", *_new(name, made), "-addext", "keyUsage=critical,keyCertSign", "-out", made.file)
    return made


def make_certificate(folder: Path, name: str, authority: Certificate) -> Certificate:
    """A certificate for 127.0.0.1 that an authority signs."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    signer: list[str | Path] = ["-CA", authority.file, "-CAkey", authority.key]
    _openssl("req", "-x509", *_new(name, made), *signer, "-addext", "subjectAltName=IP:127.0.0.1", "-out", made.file)
    return made


def _new(name: str, made: Certificate) -> list[str | Path]:
    return ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", made.key]


def _openssl(*arguments: str | Path) -> None:
    tool = program("openssl", "install openssl 3")
    subprocess.run([tool, *arguments], check=True, capture_output=True)
