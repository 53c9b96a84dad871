"""Services run side by side, and end together."""

import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from lmt2 import telemetry
from lmt2.servers import Health
from lmt2.supervisor import Service, ServiceEnded, Supervisor, left_behind


def waiting(name: str, ended: list[str]) -> Service:
    """A service that works until it is stopped, and says so."""
    stop = threading.Event()

    def run() -> None:
        assert stop.wait(30)
        ended.append(name)

    return Service(name, run, stop.set)


def failing(error: Exception) -> Service:
    """A service that can't go on."""

    def run() -> None:
        raise error

    return Service("failing", run, lambda: None)


def test_one_failure_stops_all_and_is_raised() -> None:
    ended: list[str] = []
    services = [waiting("a", ended), failing(OSError("disk full")), waiting("b", ended)]
    with pytest.raises(OSError, match="disk full"):
        Supervisor(services).run()
    assert sorted(ended) == ["a", "b"]


def test_a_service_that_ends_by_itself_is_a_failure() -> None:
    ended: list[str] = []
    with pytest.raises(ServiceEnded, match="short"):
        Supervisor([waiting("a", ended), Service("short", lambda: None, lambda: None)]).run()
    assert ended == ["a"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all(number: signal.Signals) -> None:
    ended: list[str] = []
    handler = signal.getsignal(number)
    Supervisor([waiting("a", ended), waiting("b", ended)]).run(lambda: os.kill(os.getpid(), number))
    assert sorted(ended) == ["a", "b"]
    assert signal.getsignal(number) is handler


def test_work_that_takes_too_long_is_left_behind() -> None:
    go_on = threading.Event()
    slow = Service("slow", lambda: assert_set(go_on), lambda: None)
    started = time.monotonic()
    Supervisor([slow], grace_seconds=0.2).run(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert time.monotonic() - started < 5
    assert [thread.name for thread in left_behind] == ["slow"]
    go_on.set()
    left_behind.pop().join()


def assert_set(event: threading.Event) -> None:
    """Wait for an event."""
    assert event.wait(30)


def test_abandoned_work_does_not_hold_up_the_exit() -> None:
    script = (
        "import os, signal, sys, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from lmt2 import cli, supervisor\n"
        "pool = ThreadPoolExecutor(1)\n"
        "slow = supervisor.Service('slow', lambda: pool.submit(time.sleep, 60).result(), lambda: None)\n"
        "def command():\n"
        "    supervisor.Supervisor([slow], 0.1).run(lambda: os.kill(os.getpid(), signal.SIGTERM))\n"
        "cli.app.command()(command)\n"
        "cli.main(['command'])\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_health_and_metrics() -> None:
    telemetry.consumer_lag.labels("lmt2.documents").set(3)
    health = Health(0)
    thread = threading.Thread(target=health.run)
    thread.start()
    try:
        address = f"http://127.0.0.1:{health.port}"
        assert httpx.get(f"{address}/healthz").json() == {"status": "ok"}
        assert 'lmt2_consumer_lag{topic="lmt2.documents"} 3.0' in httpx.get(f"{address}/metrics").text
        assert httpx.get(f"{address}/else").status_code == 404
    finally:
        health.stop()
        thread.join(10)
