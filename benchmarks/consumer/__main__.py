"""The consumer under load and under attack.

    python -m benchmarks.consumer --json out.json
    python -m benchmarks.consumer --only throughput --kafka HOST:PORT
    python -m benchmarks.consumer --only faults --kills 100 --restarts 10 --rebalances 30

`throughput` compares with plain poll loops, `studying` compares structuring and scoring with a plain loop around the
same model, `faults` kills and restarts, `fuzz` sends what nobody would write, `soak` watches the memory. Each runs in a
scratch folder and, but for studying, on a broker of its own, from the jars that scripts/kafka_jars.sh fetches;
throughput alone may use yours, where it leaves topics named benchmark.*.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.consumer import faults, fuzz, soak, studying, throughput
from benchmarks.consumer.broker import jars, running
from benchmarks.stream import say
from lmt2.config import KafkaSettings, Settings, TelemetrySettings
from lmt2.telemetry import configure_logging

PARTS = ("throughput", "studying", "faults", "fuzz", "soak")


def run(part: str, libs: Path | None, home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One part's report."""
    if part == "throughput" and args.kafka:
        return throughput.run(args.kafka, home, args.records, args.repeats)
    if part == "studying":
        return studying.run(args.facts, Settings(home=home), args.documents)
    if libs is None:
        raise SystemExit(
            "there is no Kafka: fetch it with scripts/kafka_jars.sh, or --only throughput --kafka HOST:PORT"
        )
    if part == "faults":
        return faults.run(libs, home, {name: getattr(args, name) for name in faults.FAULTS})
    with running(libs, home / "broker") as broker:
        if part == "throughput":
            return throughput.run(broker.address, home, args.records, args.repeats)
        settings = Settings(home=home, kafka=KafkaSettings(bootstrap=broker.address, partitions=1))
        return fuzz.run(settings, args.events) if part == "fuzz" else soak.run(settings, args.soak)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--kafka", help="HOST:PORT of a broker for throughput")
    parser.add_argument("--records", type=int, default=20_000, help="throughput: of a topic")
    parser.add_argument("--repeats", type=int, default=7, help="throughput: rounds in which all readers take a turn")
    parser.add_argument("--facts", type=Path, default=Path("benchmarks/data/facts"), help="studying: a folder of facts")
    parser.add_argument("--documents", type=int, default=4, help="studying: how many")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--rebalances", type=int, default=30)
    parser.add_argument("--events", type=int, default=10_000, help="fuzz")
    parser.add_argument("--soak", type=int, default=50_000, help="events")
    parser.add_argument("--json", type=Path, help="where to write the report")
    args = parser.parse_args()
    configure_logging(TelemetrySettings(log_level="error"))
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="lmt2-benchmark-") as scratch:
        for part in args.only:
            home = Path(scratch) / part
            home.mkdir()
            report[part] = run(part, libs=jars(), home=home, args=args)
            say(json.dumps({part: report[part]}, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
