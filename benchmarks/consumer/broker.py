"""A Kafka broker of the benchmark's own, in a Java process, that can be killed and started again with its data."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmt2.config import KafkaSettings, Settings
from lmt2.models.assets import cache_folder
from lmt2.transport import open_transport

START_SECONDS = 180.0
JAVA = ("java", "-Xmx512m", "-XX:+UseSerialGC", "-cp")
CLUSTER_ID = "bG10Mi1iZW5jaC1icm9rZQ"  # 16 bytes in Base64, as Kafka wants it
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
"""


def jars() -> Path | None:
    """The folder of Kafka's jars, if scripts/kafka_jars.sh has fetched them."""
    return next(iter(sorted(cache_folder().glob("kafka-*/libs"))), None)


class Broker:
    """One KRaft node; its data stays in the folder."""

    def __init__(self, libs: Path, folder: Path) -> None:
        port, controller = _free_ports()
        self.address = f"127.0.0.1:{port}"
        self._folder = folder
        self._config = folder / "server.properties"
        self._config.write_text(PROPERTIES.format(port=port, controller=controller, data=folder / "data"))
        self._java = [*JAVA, f"{libs}/*"]
        storage = [*self._java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._config)]
        subprocess.run(storage, check=True, capture_output=True, cwd=folder, timeout=START_SECONDS)
        self.start()

    def start(self) -> None:
        """Start it; returns when it answers."""
        with (self._folder / "broker.log").open("ab") as log:
            command = [*self._java, "kafka.Kafka", str(self._config)]
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no broker at {self.address}: see {self._folder / 'broker.log'}")

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        host, port = self.address.split(":")
        settings = Settings(home=self._folder, kafka=KafkaSettings(bootstrap=self.address))
        try:
            socket.create_connection((host, int(port)), 1).close()  # kafka-python leaves failed connections open
            open_transport(settings).create_topics(["ready"])
        except OSError:
            time.sleep(0.2)
            return False
        return True


@contextmanager
def running(libs: Path, folder: Path) -> Iterator[Broker]:
    """A broker, killed at the end of the block."""
    folder.mkdir()
    broker = Broker(libs, folder)
    try:
        yield broker
    finally:
        broker.kill()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
