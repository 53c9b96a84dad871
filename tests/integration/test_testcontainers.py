"""Kafka in a container, as a team would run it in its own tests: one document in, the same bytes out."""

import uuid

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

pytestmark = [pytest.mark.kafka, pytest.mark.containers]
TIMEOUT_MS = 30_000


def test_a_message_survives_the_way_through_a_container(container_kafka: str) -> None:
    topic, document = f"documents-{uuid.uuid4()}", b'{"id": "d1", "text": "The bridge opened in 1931."}'
    admin = KafkaAdminClient(bootstrap_servers=container_kafka)
    admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    admin.close()

    producer = KafkaProducer(bootstrap_servers=container_kafka, acks="all")
    sent = producer.send(topic, document, key=b"d1").get(timeout=TIMEOUT_MS / 1000)
    producer.close()

    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=container_kafka,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=TIMEOUT_MS,
    )
    received = next(consumer)
    consumer.close()
    assert (received.value, received.key, received.offset) == (document, b"d1", sent.offset)
