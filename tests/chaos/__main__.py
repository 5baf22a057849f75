"""`python -m tests.chaos`: seeded chaos, with a table of what was broken and which laws held."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from tests.chaos.laws import LAWS
from tests.chaos.run import Report, run_once, typical
from tests.chaos.world import Pace

from wearon_local.paths import LOCAL_DIR
from wearon_local.stack import end_on_sigterm


def main() -> int:
    arguments = _arguments()
    seeds = [arguments.seed + number for number in range(arguments.runs)]
    print(f"seed {seeds[0]}" + (f" to {seeds[-1]}" if len(seeds) > 1 else ""), flush=True)
    reports: list[Report] = []
    for seed in seeds:
        began = time.monotonic()

        def say(text: str) -> None:
            if arguments.verbose:
                print(text, flush=True)

        with end_on_sigterm():
            report = run_once(
                seed,
                jobs=arguments.jobs,
                seconds=arguments.seconds,
                pace=Pace(arguments.pace, arguments.stuck_after),
                most_faults=arguments.faults,
                say=say,
                sentinels=arguments.sentinels,
                kills=arguments.kills,
                groups=arguments.group,
                keep=Path(LOCAL_DIR / "chaos" / str(seed)),
            )
        reports.append(report)
        if len(seeds) > 1:
            figures = report.verdicts.figures
            print(
                f"seed {seed}: {'held' if report.verdicts.hold else 'BROKEN'},"
                f" {sum(report.injected.values())} faults, {figures['completed']} completed,"
                f" {figures['failed']} failed, {time.monotonic() - began:.0f} s",
                flush=True,
            )
            _print_breaches(report)
    _print_table(reports)
    return 0 if all(report.verdicts.hold for report in reports) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or random.randrange(100_000)))
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS") or 1), help="seeds in a row")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("JOBS") or 300))
    parser.add_argument("--seconds", type=float, default=None, help="of faults; by default one for each job")
    parser.add_argument("--faults", type=int, default=None, help="how many of the catalogue; default all")
    parser.add_argument(
        "--pace",
        type=float,
        default=float(os.environ.get("PACE") or 1),
        help="divides leases, sweeps and heartbeats; 1 is how they run in production",
    )
    parser.add_argument("--stuck-after", type=int, default=20, help="STUCK_AFTER_SECONDS")
    parser.add_argument("--sentinels", action="store_true", help="Redis behind Sentinels, which fail over")
    parser.add_argument(
        "--kills",
        type=int,
        default=0,
        help="break nothing but so many generators, at any moment: every job must complete",
    )
    parser.add_argument(
        "--group", action="append", help="break nothing but what the table counts under this; may be repeated"
    )
    parser.add_argument("--verbose", action="store_true", help="say what is broken when")
    arguments = parser.parse_args()
    if arguments.seconds is None:
        arguments.seconds = min(270.0, max(30.0, arguments.jobs * 0.9))
    if arguments.faults is None and arguments.jobs < 300:
        arguments.faults = max(10, arguments.jobs // 3)
    return arguments


def _print_table(reports: list[Report]) -> None:
    injected: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    recoveries: dict[str, list[float]] = defaultdict(list)
    for report in reports:
        injected += report.injected
        figures += report.verdicts.figures
        for label, values in report.recoveries.items():
            recoveries[label] += values
    print("\nfaults injected")
    for group, count in sorted(injected.items()):
        print(f"  {group:32} {count:4}")
    not_reached = Counter(name for report in reports for name in report.not_reached)
    if not_reached:
        names = ", ".join(
            f"{name} ({count})" if count > 1 else name for name, count in sorted(not_reached.items())
        )
        print(f"  of these armed and not reached: {names}")
    print("\nrecovery                                                   median / slowest")
    for label, values in sorted(recoveries.items()):
        print(f"  {label:56} {typical(values)}")
    print("\njobs")
    for name in (
        "completed",
        "failed",
        "cancelled",
        "cancelled too late",
        "dead-lettered",
        "deleted with their user",
        "calls",
        "calls made again",
        "takeovers",
    ):
        print(f"  {name:32} {figures[name]:4}")
    reported = [line for report in reports for line in report.verdicts.reported]
    print(f"  {'undone by the cron, as reported':32} {len(reported):4}")
    print("\nlaws")
    for law, text in LAWS.items():
        broken = sum(bool(report.verdicts.breaches[law]) for report in reports)
        print(f"  {law} {text:66} {'held' if not broken else f'BROKEN in {broken} of {len(reports)}'}")
    if len(reports) == 1:
        _print_breaches(reports[0])
    print(f"\n{sum(report.seconds for report in reports):.0f} s, seeds {[report.seed for report in reports]}")


def _print_breaches(report: Report) -> None:
    for law, breaches in report.verdicts.breaches.items():
        for breach in breaches[:20]:
            print(f"    law {law}, seed {report.seed}: {breach}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
