"""Logs (structlog) and metrics (Prometheus) of every stage. Labels are bounded: no document id is ever one."""

import logging
import sys
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from lmt2.config import TelemetrySettings

SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)

documents_total = Counter("lmt2_documents_total", "Documents by what became of them", ["outcome"])
conflict_rate = Gauge("lmt2_conflict_rate", "Share of the latest document's questions that the probe model gets wrong")
drift_detections_total = Counter("lmt2_drift_detections_total", "Drift detections", ["detector", "signal"])
update_seconds = Histogram("lmt2_update_seconds", "Duration of one micro-update", buckets=SECONDS)
gate_decisions_total = Counter("lmt2_gate_decisions_total", "Decisions of the gate", ["verdict", "reason"])
gate_score = Gauge("lmt2_gate_score", "The committee's score of the latest candidate (eq. 8)")
freshness_seconds = Histogram(
    "lmt2_freshness_seconds", "From a document's event time until it is served", buckets=SECONDS
)
serving_version_info = Gauge("lmt2_serving_version_info", "1 for the version a replica serves", ["replica", "version"])
consumer_lag = Gauge("lmt2_consumer_lag", "Records of a topic that wait to be read", ["topic"])
queue_seconds = Histogram(
    "lmt2_queue_seconds", "Age of a record when the work on it begins", ["topic"], buckets=SECONDS
)
poll_interval_seconds = Histogram(
    "lmt2_poll_interval_seconds",
    "Between polls: after max.poll.interval.ms a broker gives a member up",
    ["topic"],
    buckets=SECONDS,
)
updates_waiting = Gauge("lmt2_updates_waiting", "Updates that wait for the learner")
updates_held = Gauge("lmt2_updates_held", "Updates that wait for others, or for the cooldown to end")
dead_letters_total = Counter("lmt2_dead_letters_total", "Records that could not be used", ["error"])


def configure_logging(settings: TelemetrySettings) -> None:
    """Send structured logs to standard error, as text for people or JSON lines for machines."""
    is_json = settings.log_format == "json"
    # Plain tracebacks: the default ones show local variables, passwords among them.
    console = structlog.dev.ConsoleRenderer(pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)
    last: list[Any] = [structlog.processors.JSONRenderer()] if is_json else [console]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if is_json else []),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def logger(stage: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry the stage's name."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(stage=stage)
    return bound
