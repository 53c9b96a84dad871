"""Fixtures for the parts that a user has too: a Kafka broker and the small language model."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmt2.errors import ModelMissing
from lmt2.models.assets import SMOLLM2, model_path
from tests.support.kafka import container_broker, find_image, jvm_broker, require_jars, sweep_leftovers
from tests.support.parts import missing


@pytest.fixture(autouse=True)
def _kafka_swept(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.node.get_closest_marker("kafka"):
        sweep_leftovers()


@pytest.fixture(scope="session")
def jvm_kafka() -> Iterator[str]:
    """Address of a broker that runs as a Java process."""
    with jvm_broker(require_jars()) as addresses:
        yield addresses["PLAINTEXT"]


@pytest.fixture(scope="session")
def container_kafka() -> Iterator[str]:
    """Address of a broker that testcontainers runs."""
    image, reason = find_image()
    with container_broker(image or missing(reason)) as address:
        yield address


@pytest.fixture(scope="session")
def kafka_address(request: pytest.FixtureRequest) -> str:
    """Address of the broker at hand: the one named by LMT2_TEST_KAFKA, else a container, else a Java process."""
    if given := os.environ.get("LMT2_TEST_KAFKA"):
        return given
    image, _ = find_image()
    address: str = request.getfixturevalue("container_kafka" if image else "jvm_kafka")
    return address


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct."""
    try:
        return model_path(SMOLLM2.name)
    except ModelMissing as error:
        missing(str(error))
