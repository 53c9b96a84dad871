"""Event transports: an embedded log in SQLite, and Kafka, behind one interface."""

from lmt2.config import Settings
from lmt2.errors import ConfigError
from lmt2.transport.base import Transport
from lmt2.transport.embedded import EmbeddedTransport


def open_transport(settings: Settings) -> Transport:
    """Kafka where a bootstrap address is set, else the embedded log in the home folder. Nothing is connected yet.

    Raises:
        ConfigError: Kafka is wanted and its client isn't installed.
    """
    if not settings.kafka.bootstrap:
        return EmbeddedTransport(settings.home / "events.db")
    try:
        from lmt2.transport.kafka import KafkaTransport  # an extra that an embedded run does without
    except ModuleNotFoundError as error:
        raise ConfigError(f"kafka.bootstrap is set, but {error.name} isn't there: pip install 'lmt2[kafka]'") from error
    return KafkaTransport(settings.kafka)
