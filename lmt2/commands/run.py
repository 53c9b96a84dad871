"""`lmt2 up` and one command for each stage: the commands that stay until they are told to stop."""

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lmt2.commands.common import ConfigOption, HomeOption, KafkaOption, absolute, find_site, out, override
from lmt2.config import Settings
from lmt2.models.assets import model_path
from lmt2.running import Running, announce, claimed
from lmt2.servers import Health, address, listen
from lmt2.supervisor import Service, Supervisor

if TYPE_CHECKING:
    from lmt2.pipeline import Parts

PortOption = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Of the serving address; 0: any.")]
GatePortOption = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Of the console; 0: any.")]


def up(home: HomeOption = None, config: ConfigOption = None, kafka: KafkaOption = "", port: PortOption = None) -> None:
    """Run the whole pipeline: consumer, learner, gate and serving in one process."""
    settings = _settings(home, config, kafka, "serving", port)
    with claimed(settings.home), _serving_socket(settings) as listener, _console_socket(settings) as console:
        out.print(f"LMT² is starting in {settings.home}")
        parts = _parts(settings)
        from lmt2 import pipeline

        services = [stage(parts) for stage in pipeline.STAGES.values()]
        services += [pipeline.console(parts, console), pipeline.serving(parts, listener)]
        here = Running(
            pid=os.getpid(),
            serving=address(listener),
            console=address(console),
            kafka=settings.kafka.bootstrap,
            config=absolute(config) if config else None,
        )

        def greet() -> None:
            announce(settings.home, here)
            _greet(here)

        Supervisor(services).run(greet)
    out.print("LMT² has stopped")


def consumer(home: HomeOption = None, config: ConfigOption = None, kafka: KafkaOption = "") -> None:
    """Run the consumer alone."""
    _run_stage("consumer", _settings(home, config, kafka))


def learner(home: HomeOption = None, config: ConfigOption = None, kafka: KafkaOption = "") -> None:
    """Run the learner alone."""
    _run_stage("learner", _settings(home, config, kafka))


def gate(
    home: HomeOption = None, config: ConfigOption = None, kafka: KafkaOption = "", port: GatePortOption = None
) -> None:
    """Run the gate alone, with its console."""
    settings = _settings(home, config, kafka, "gate", port)
    with _console_socket(settings) as listener:
        parts = _parts(settings)
        from lmt2 import pipeline

        _supervise([pipeline.gate(parts), pipeline.console(parts, listener)], f"gate at {address(listener)}")


def serve(home: HomeOption = None, config: ConfigOption = None, port: PortOption = None) -> None:
    """Run the serving address alone."""
    settings = _settings(home, config, "", "serving", port)
    with _serving_socket(settings) as listener:
        parts = _parts(settings)
        from lmt2 import pipeline

        _supervise([pipeline.serving(parts, listener)], f"serving at {address(listener)}/v1")


def _run_stage(name: str, settings: Settings) -> None:
    health = Health(settings.telemetry.metrics_port)
    parts = _parts(settings)
    from lmt2 import pipeline

    services = [pipeline.STAGES[name](parts), Service("health", health.run, health.stop)]
    _supervise(services, f"{name}, health and metrics on port {health.port}")


def _supervise(services: Sequence[Service], what: str) -> None:
    Supervisor(services).run(lambda: out.print(f"LMT² runs the {what}"))


def _settings(
    home: HomeOption, config: ConfigOption, kafka: str, section: str = "", port: int | None = None
) -> Settings:
    from lmt2.telemetry import configure_logging

    site = find_site(home, config, kafka)
    settings = override(site.settings, section, port=port) if port is not None else site.settings
    configure_logging(settings.telemetry)
    return settings


def _serving_socket(settings: Settings) -> socket.socket:
    return listen(settings.serving.host, settings.serving.port, "serving.port (LMT2_SERVING_PORT or --port)")


def _console_socket(settings: Settings) -> socket.socket:
    return listen(settings.gate.host, settings.gate.port, "gate.port (LMT2_GATE_PORT)")


def _parts(settings: Settings) -> "Parts":
    for name in (settings.model.name, settings.model.encoder):
        model_path(name)  # a missing model is told before torch takes seconds to import
    from transformers.utils import logging

    from lmt2.pipeline import Parts

    logging.disable_progress_bar()
    return Parts(settings)


def _greet(here: Running) -> None:
    events = f"Kafka at {here.kafka}" if here.kafka else "embedded log"
    out.print(f"  serving  {here.serving}/v1  (models lmt2 and base)")
    out.print(f"  console  {here.console}")
    out.print(f"  events   {events}")
    out.print("  stop     Ctrl-C")
