"""What a user is told of a run: its steps with their seconds, what is waited for, the summary, the report."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pyspark.sql import SparkSession

from sparkify.config import Settings
from sparkify.parallel import in_parallel
from sparkify.schema import TABLES
from sparkify.storage import storage_of

CLEAR_LINE = "\r\033[K"  # of a terminal


def say(line: str) -> None:
    """A line on standard error, at once, in the place of the bar."""
    before = CLEAR_LINE if sys.stderr.isatty() else ""
    print(f"{before}{line}\n", end="", file=sys.stderr, flush=True)  # at once: threads say something, too


class Watch:
    """Says each change of something that is watched, with the seconds since it was begun."""

    def __init__(self) -> None:
        self._start, self._shown = time.monotonic(), ""

    def show(self, state: str) -> None:
        """Say a state, unless it is the one before."""
        if state != self._shown:
            say(f"{self.seconds():7.0f} s  {state}")
            self._shown = state

    def seconds(self) -> float:
        """The seconds since it was begun."""
        return time.monotonic() - self._start


# ---- Steps -----------------------------------------------------------------------------------------------


class Steps:
    """The steps of a run: each has a line on standard error when it ends, and its seconds are kept.

    A line says when the step ended, in seconds since the start, and how many of them it took: steps may overlap.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.monotonic()
        self._has_header = False

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """The block is the step of a name."""
        if not self._has_header:
            self._has_header = True
            say(f"{'at s':>7}  {'took s':>7}  step")
        begin = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begin, 3)
        say(f"{self.since_start():7.1f}  {self.seconds[name]:7.1f}  {name}")

    def since_start(self) -> float:
        """The seconds since the steps were made."""
        return round(time.monotonic() - self._start, 3)

    @contextlib.contextmanager
    def bar(self, spark: SparkSession) -> Iterator[None]:
        """On a terminal, a line with the tasks of the stages that run, until the block ends."""
        if not sys.stderr.isatty():
            yield
            return
        done = threading.Event()
        thread = threading.Thread(target=_draw_bar, args=(spark, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)


def _draw_bar(spark: SparkSession, done: threading.Event) -> None:
    status = spark.sparkContext.statusTracker()
    with contextlib.suppress(Exception):  # Spark may end meanwhile
        while not done.wait(0.5):
            stages = [stage for stage in map(status.getStageInfo, status.getActiveStageIds()) if stage]
            total = sum(stage.numTasks for stage in stages)
            filled = 40 * sum(stage.numCompletedTasks for stage in stages) // max(1, total)
            line = f"[{'=' * filled}{' ' * (40 - filled)}] {total} tasks" if stages else ""
            print(f"{CLEAR_LINE}{line}", end="", file=sys.stderr, flush=True)


# ---- The report ------------------------------------------------------------------------------------------


def input_in_report(source: Any, rows: Mapping[str, int]) -> dict[str, Any]:
    """What a report says of the records by kind: of logs, records = plays + duplicates + not_plays + rejected."""
    found = {}
    for kind, table in (("songs", "songs"), ("logs", "songplays")):
        counts, files = source.counts[kind], len(source.files[kind])
        found[kind] = {"files": files, "records": counts.total, "duplicates": counts.used - rows[table]}
        found[kind].update(rejected=counts.rejected, reasons=counts.reasons)
    found["logs"].update(plays=rows["songplays"], not_plays=source.counts["logs"].others)
    return found


def tables_in_report(output: Any, place: str, rows: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """What a report says of the tables: rows, files, bytes and path, in the order of the contract."""
    found = {}
    for table, files in zip(TABLES, in_parallel(output.list, TABLES)):
        path = os.path.join(place, table)
        found[table] = {"rows": rows[table], "files": len(files), "bytes": sum(files.values()), "path": path}
    return found


def conclude(report: dict[str, Any], settings: Settings) -> None:
    """Write the report where one is wanted, and print the summary. Raises PlaceError."""
    if settings.report:
        folder, name = os.path.split(settings.report)
        storage_of(folder, settings.aws).write(name, (json.dumps(report, indent=2) + "\n").encode())
    with to_a_reader():
        print(summary(report))


# ---- What a user reads -----------------------------------------------------------------------------------


def summary(report: Mapping[str, Any]) -> str:
    """The report as the table that ends standard output: a line for each table, then for what was rejected."""
    lines = [f"{'table':<10} {'rows':>13} {'files':>7} {'MB':>10}  where"]
    for name, table in report["tables"].items():
        megabytes = table["bytes"] / 1e6
        lines.append(f"{name:<10} {table['rows']:>13,} {table['files']:>7,} {megabytes:>10,.2f}  {table['path']}")
    output = report["tables"]["songplays"]["path"].rpartition("/")[0]
    rejected = {kind: counts for kind, counts in report["input"].items() if counts["rejected"]}
    for kind, counts in rejected.items():
        often = sorted(counts["reasons"].items(), key=lambda reason: -reason[1])
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in often)
        lines.append(f"{'rejected':<10} {counts['rejected']:>13,} {'':18}  {output}/_rejected/{kind}: {reasons}")
    if not rejected:
        lines.append(f"{'rejected':<10} {0:>13}")
    return "\n".join(lines)


def warn_of_smaller(before: Mapping[str, int], now: Mapping[str, int]) -> None:
    """Warn of each table with less than half the rows it had; before: {table: rows}, of those that were there."""
    for table, rows in now.items():
        had = before.get(table, 0)
        if rows * 2 < had:
            say(f"etl.py: warning: {table} had {had:,} rows, now {rows:,}: each run makes all tables from its input")


def loaded_in_words(place: str, schema: str, run_id: str, rows: Mapping[str, int]) -> str:
    """Which run's tables a database now has, as a line."""
    numbers = ", ".join(f"{table} {number:,}" for table, number in rows.items())
    return f"run {run_id} is in {place}, schema {schema}: {numbers}"


@contextlib.contextmanager
def to_a_reader() -> Iterator[None]:
    """Who reads what the block prints, such as head, may stop before its end."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # Python would complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
