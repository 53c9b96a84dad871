"""Opens kafka-python's clients, so that one which can't start says why, and soon.

By itself kafka-python tries again until its time is up, whatever the reason, and then says that it couldn't.
"""

import logging
from collections.abc import Callable
from typing import Any

from kafka.errors import (
    IllegalSaslStateError,
    InvalidReceiveError,
    KafkaError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from lmt2.errors import TransportError

UNKNOWN_USER = (SaslAuthenticationFailedError, UnsupportedSaslMechanismError, IllegalSaslStateError)

logging.getLogger("kafka").setLevel(logging.INFO)  # below that it logs settings and SASL messages with the password


def open_client(kind: Callable[..., Any], **settings: Any) -> Any:
    """A client of a kind, connected.

    Raises:
        TransportError: it can't start. It is closed, for kafka-python would leave its sockets and thread behind.
    """
    started: list[tuple[NetworkSelector, Manager, KafkaNetClient]] = []

    def connect(**given: object) -> KafkaNetClient:
        net = NetworkSelector(**given)
        manager = Manager(net, **given)
        started.append((net, manager, KafkaNetClient(net, manager, **given)))
        return started[-1][-1]

    try:
        opened = kind(**settings, kafka_client=connect)
    except (KafkaError, OSError) as error:
        reasons: list[Exception] = []
        for net, manager, client in started:
            reasons += manager.reasons
            client.close()
            net.stop()
        raise _explained(reasons or [error], settings["bootstrap_servers"]) from error
    for _, manager, _ in started:
        manager.is_opening = False
    return opened


class Manager(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python has no types
    """Keeps why brokers couldn't be spoken to; a reason that trying again doesn't mend ends the search for one.

    That is so until the client is open: later on kafka-python tries again by itself, whatever the reason.
    """

    def __init__(self, net: NetworkSelector, **settings: object) -> None:
        super().__init__(net, **settings)
        self.reasons: list[Exception] = []
        self.is_opening = True

    def get_connection(self, node_id: object, **options: object) -> Any:
        """A connection to a broker."""
        if not self.is_opening:
            return super().get_connection(node_id, **options)
        if self.reasons and not _passes(self.reasons[-1]):
            raise self.reasons[-1]
        connection = super().get_connection(node_id, **options)
        connection.init_future.add_errback(self.reasons.append)
        return connection

    async def _build_transport(self, node: object, timeout_at: float | None = None) -> Any:
        # A broker says why and hangs up. If kafka-python reads both at once, it forgets what was said.
        transport = await super()._build_transport(node, timeout_at)
        receive = transport._sock_recv  # noqa: SLF001

        def receive_before_hanging_up() -> tuple[bytes, Exception | None]:
            data, error = receive()
            return data, None if data else error  # the end is found again at the next attempt

        transport._sock_recv = receive_before_hanging_up  # noqa: SLF001
        return transport


def _passes(error: Exception) -> bool:
    """Whether trying again may help."""
    return bool(getattr(error, "retriable", False)) and "CERTIFICATE" not in str(error)


def _explained(reasons: list[Exception], addresses: list[str]) -> TransportError:
    told = [
        str(reason) if isinstance(reason, KafkaError) else f"{type(reason).__name__}: {reason}" for reason in reasons
    ]
    return TransportError(
        f"Kafka at {','.join(addresses)} can't be used: {'; '.join(dict.fromkeys(told))}; {_remedy(reasons[-1])}"
    )


def _remedy(error: Exception) -> str:
    if isinstance(error, UNKNOWN_USER):
        return "check kafka.username, kafka.password and kafka.sasl_mechanism"
    if isinstance(error, InvalidReceiveError):
        return "this is no such listener: check kafka.security"
    if "[SSL" in str(error) or not isinstance(error, KafkaError):
        return "check kafka.ca_file, kafka.cert_file and kafka.key_file, and kafka.security"
    return "check kafka.bootstrap and kafka.security, and that a broker listens there"
