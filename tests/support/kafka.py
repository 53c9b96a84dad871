"""Real Kafka brokers: a JVM started from Maven's jars, or a container that testcontainers starts. One KRaft node each.

Both read the same properties and run the same two commands, so the container may be the official image or the
one that scripts/kafka_image.sh builds where no image can be pulled.
"""

import gc
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from lmt2.models.assets import cache_folder
from tests.support.parts import missing, program
from tests.support.ports import free_ports

VERSION = "4.1.1"
OFFICIAL_IMAGE = f"apache/kafka:{VERSION}"
LOCAL_IMAGE = f"lmt2-kafka:{VERSION}"
CLUSTER_ID = "bG10Mi10ZXN0LWJyb2tlcg"  # 16 bytes in Base64, as Kafka wants it
JVM = ("-Xmx512m", "-XX:+UseSerialGC")
START_SECONDS = 180  # on idle cores it takes some 5


def properties(ports: Mapping[str, int], controller_port: int, data: str, host: str) -> str:
    """A one-node broker's configuration; clients are told to come back to 127.0.0.1.

    Args:
        ports: of each listener, by its name.
        controller_port: where the broker speaks with itself.
        data: folder of its logs.
        host: address that it listens on.
    """
    return f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners={_listeners(ports, host)},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={_listeners(ports, "127.0.0.1")}
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
"""


def _listeners(ports: Mapping[str, int], host: str) -> str:
    return ",".join(f"{name}://{host}:{port}" for name, port in ports.items())


@contextmanager
def jvm_broker(
    libs: Path, listeners: Sequence[str] = (), more_properties: str = "", format_arguments: Sequence[str] = ()
) -> Iterator[dict[str, str]]:
    """A broker in a Java process of this machine; yields the address of each listener.

    Args:
        libs: the folder of Kafka's jars, from scripts/kafka_jars.sh.
        listeners: names of listeners besides PLAINTEXT, which `more_properties` set up.
        more_properties: lines of configuration.
        format_arguments: for the storage tool, such as users.
    """
    folder = Path(tempfile.mkdtemp(prefix="lmt2-kafka-"))
    controller_port, *ports = free_ports(2 + len(listeners))
    by_name = dict(zip(["PLAINTEXT", *listeners], ports, strict=True))
    config, log_file = folder / "server.properties", folder / "broker.log"
    config.write_text(properties(by_name, controller_port, str(folder / "data"), "127.0.0.1") + more_properties)
    java = ["java", *JVM, "-cp", f"{libs}/*"]
    storage = [*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(config), *format_arguments]
    subprocess.run(storage, check=True, capture_output=True, cwd=folder, timeout=START_SECONDS)
    addresses = {name: f"127.0.0.1:{port}" for name, port in by_name.items()}
    with log_file.open("wb") as log:
        broker = subprocess.Popen([*java, "kafka.Kafka", str(config)], cwd=folder, stdout=log, stderr=log)
    try:
        wait_until_answers(addresses["PLAINTEXT"], lambda: broker.poll() is not None, log_file.read_text)
        yield addresses
    finally:
        broker.kill()  # its data is thrown away: there is nothing to close in order
        broker.wait()
        shutil.rmtree(folder)


@contextmanager
def container_broker(image: str) -> Iterator[str]:
    """A broker in a container; yields its address on this machine."""
    # The container is stopped here, and the image of testcontainers' reaper can't be pulled everywhere.
    testcontainers_config.ryuk_disabled = True
    (port,) = free_ports(1)  # chosen beforehand, for the broker must advertise it
    java = f"java {' '.join(JVM)} -cp '/opt/kafka/libs/*'"
    script = (
        'printf "%s" "$PROPERTIES" >/tmp/server.properties'
        f" && {java} kafka.tools.StorageTool format -t {CLUSTER_ID} -c /tmp/server.properties"
        f" && exec {java} kafka.Kafka /tmp/server.properties"
    )
    container = DockerContainer(image, entrypoint=["sh", "-c", script])
    container.with_env("PROPERTIES", properties({"PLAINTEXT": port}, 9093, "/tmp/data", "0.0.0.0"))
    container.with_bind_ports(port, port)
    with container:
        broker = container.get_wrapped_container()

        def has_ended() -> bool:
            broker.reload()
            return bool(broker.status == "exited")

        wait_until_answers(f"127.0.0.1:{port}", has_ended, lambda: broker.logs().decode())
        yield f"127.0.0.1:{port}"


def wait_until_answers(address: str, has_ended: Callable[[], bool], log: Callable[[], str]) -> None:
    """Return when the broker answers; raise with the end of its log if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not has_ended() and time.monotonic() < deadline:
        if answers(address):
            return
        time.sleep(0.2)
    raise RuntimeError(f"no Kafka at {address}; the end of its log:\n{log()[-3000:]}")


def answers(address: str) -> bool:
    """Whether a broker answers an ApiVersions request; an engine's proxy accepts connections long before."""
    api_versions, version, correlation, no_client_id = 18, 0, 1, -1
    request = struct.pack(">ihhih", 10, api_versions, version, correlation, no_client_id)
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(request)
            return len(connection.recv(8)) == 8
    except OSError:
        return False


def require_jars() -> Path:
    """The folder of Kafka's jars, or the test is left out."""
    program("java", "install a Java 17 runtime")
    libs = cache_folder() / f"kafka-{VERSION}" / "libs"
    return libs if libs.is_dir() else missing(f"there is no Kafka in {libs}: run scripts/kafka_jars.sh")


def find_image() -> tuple[str, str]:
    """The Kafka image to run and an empty reason, or an empty name and why no container can be run.

    `LMT2_TEST_KAFKA_IMAGE` names one; else it is the one built here, else the official one.
    """
    if shutil.which("docker") is None:
        return "", "there is no container engine: run scripts/docker_engine.sh start"
    listing = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
    if listing.returncode:
        return "", f"no container engine answers ({listing.stderr.strip()}): run scripts/docker_engine.sh start"
    present = listing.stdout.split()
    name = os.environ.get("LMT2_TEST_KAFKA_IMAGE") or (LOCAL_IMAGE if LOCAL_IMAGE in present else OFFICIAL_IMAGE)
    if name not in present and (pull := docker("pull", "--quiet", name)).returncode:
        return "", f"{name} can't be pulled ({pull.stderr.strip()}): run scripts/kafka_image.sh"
    return name, ""


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the engine's client."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


def sweep_leftovers() -> None:
    """Have the sockets that kafka-python leaves behind collected where they were left, without the warnings.

    It drops a connection whose handshake failed, or whose broker was killed, without closing it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
