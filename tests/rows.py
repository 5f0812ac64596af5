"""Records and tables on rows made for a test: through the rules of sparkify.records, and to Spark where a table is."""

import json
from collections.abc import Iterable
from typing import Any

from dirty import dump, dump_raw
from pyspark.sql import DataFrame, Row, SparkSession

import etl
from sparkify.records import rows_in
from sparkify.schema import RECORDS


def content_of(record: Any) -> bytes:
    """A dict as JSON; text and bytes as they are."""
    return dump(record) if isinstance(record, (dict, bytes)) else str(record).encode("utf-8", "surrogatepass")


def read(kind: str, record: Any, source: str = "source") -> list[Row]:
    """The rows of schema.RECORDS[kind] of what stands in one file."""
    as_row = Row(*RECORDS[kind])
    return [as_row(*values) for values in rows_in(kind, [(source, content_of(record))])]


def judged(kind: str, cases: dict) -> dict:
    """{case: its one row}."""
    found = {case: read(kind, record) for case, record in cases.items()}
    assert {case: len(rows) for case, rows in found.items()} == dict.fromkeys(cases, 1)
    return {case: row for case, (row,) in found.items()}


def judged_events(cases: dict) -> dict:
    return judged("logs", cases)


def judged_songs(cases: dict) -> dict:
    return judged("songs", cases)


def frame(spark: SparkSession, kind: str, records: Iterable) -> DataFrame:
    """The records of a kind as a run has them."""
    rows = [tuple(row) for record in records for row in read(kind, record)]
    return spark.createDataFrame(rows, ", ".join(map(" ".join, RECORDS[kind].items()))).cache()


def plays(spark: SparkSession, events: Iterable) -> DataFrame:
    return etl.plays_of(frame(spark, "logs", events))


def songs(spark: SparkSession, records: Iterable) -> DataFrame:
    return frame(spark, "songs", records).where("reason IS NULL")


def songplays(spark: SparkSession, events: Iterable, catalogue: Iterable = ()) -> DataFrame:
    return etl.songplays_table(plays(spark, events), etl.songs_by_name(songs(spark, catalogue)))


def rows(table: DataFrame) -> list[Row]:
    """The rows, sorted, a timestamp as its text in the session's zone: collect() would give the machine's."""
    columns = [f"cast({name} AS string) AS {name}" if kind == "timestamp" else name for name, kind in table.dtypes]
    return sorted(table.selectExpr(*columns).collect(), key=str)


def raw(base: dict, key: str, literal: str) -> str:
    """A base row as a line, with a literal in the place of a field that json.dumps wouldn't write."""
    return dump_raw(base, key, literal).decode()


def as_json(records: Iterable) -> bytes:
    """Records as the lines of a log."""
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)
