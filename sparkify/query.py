"""Ask the tables."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

from py4j.protocol import Py4JError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkify.config import Settings
from sparkify.errors import UsageError, java_cause
from sparkify.java import s3a_packages
from sparkify.places import is_s3, literal_path
from sparkify.publish import check_complete
from sparkify.report import to_a_reader
from sparkify.schema import TABLES
from sparkify.session import parse_query, session, size_shuffles, struct_of, use_s3a
from sparkify.storage import storage_of

SMALL_TABLES = 4 << 20  # bytes up to which compiling a query would take longer than running it
PRINTED_ROWS = 1000  # of a table; CSV has all


# ---- The tables and a query ------------------------------------------------------------------------------


def read_table(spark: SparkSession, place: str, name: str) -> DataFrame:
    """A table in a folder of tables, its partition columns last; no job has to infer the types of its columns."""
    return spark.read.schema(struct_of(TABLES[name].types)).parquet(literal_path(f"{place}/{name}"))


def open_tables(spark: SparkSession, place: str) -> dict[str, DataFrame]:
    """Make the five tables in a place views of their names, with the columns of TABLES; returns {name: DataFrame}.

    Raises UsageError when a table isn't there. While a run publishes, and after it was killed then, some tables may be
    of that run and some of the run before.
    """
    tables = {}
    for name in TABLES:
        try:
            tables[name] = read_table(spark, place, name).select(*TABLES[name].types)
        except AnalysisException:
            raise UsageError(f"there is no table {place}/{name}: name an output that etl.py has written") from None
        tables[name].createOrReplaceTempView(name)
    return tables


@contextlib.contextmanager
def tables_session(storage: Any, work: str, packages: Sequence[str] = ()) -> Iterator[SparkSession]:
    """The session of a block that reads the tables of a storage; packages as in spark_session."""
    size = sum(sum(storage.list(table).values()) for table in TABLES)
    is_small, on_s3 = 0 < size < SMALL_TABLES, is_s3(storage.place)
    with session(work, is_small, [*packages, *(s3a_packages() if on_s3 else [])]) as spark:
        if on_s3:
            use_s3a(spark, storage.aws)
        if is_small:
            size_shuffles(spark, size, is_small)
        yield spark


def query(spark: SparkSession, sql: str) -> DataFrame:
    """The answer to a SQL query, or to a DESCRIBE, SHOW or EXPLAIN. Raises UsageError for anything else."""
    with _in_one_line():
        if not parse_query(spark, sql):
            raise UsageError("--query only asks: a SELECT or another query, DESCRIBE, SHOW, EXPLAIN; this is none")
        answer = spark.sql(sql)
    if re.match(r"\s*EXPLAIN\b", sql, re.IGNORECASE):
        return answer.select(F.explode(F.split("plan", "\n")).alias("plan"))
    return answer


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """What Spark or Java says about the query of a block, in many lines, becomes an error of one."""
    try:
        yield
    except (PySparkException, Py4JError) as error:
        said = java_cause(error) if isinstance(error, Py4JError) else str(error).strip().splitlines()[0]
        hint = f"; the tables are {', '.join(TABLES)}" if "TABLE_OR_VIEW_NOT_FOUND" in said else ""
        raise UsageError(f"the query can't be answered: {said}{hint}") from None


# ---- How an answer looks ---------------------------------------------------------------------------------


def rows_as_text(answer: DataFrame) -> Iterator[list]:
    """The rows of an answer as lists of text and floats, null as None. Times are in the session's zone.

    Collected as they are, times would come in the zone of the machine.
    """
    numbered = answer.toDF(*map(str, range(len(answer.columns))))  # two columns of an answer may share a name
    columns = [f"`{name}`" if kind == "double" else f"cast(`{name}` AS string)" for name, kind in numbered.dtypes]
    return map(list, numbered.selectExpr(*columns).toLocalIterator())


def write_csv(answer: DataFrame, file: TextIO) -> None:
    """Write an answer to an open text file as CSV with a header; null is an empty field."""
    # The writer quotes what has a character of its own end of line, \r\n: so it keeps that.
    writer = csv.writer(SimpleNamespace(write=lambda line: file.write(line[:-2] + "\n")))
    writer.writerow(answer.columns)
    writer.writerows(rows_as_text(answer))


def as_table(answer: DataFrame) -> list[str]:
    """The first rows of an answer as the lines of an aligned table: numbers to the right, what would break a line as ?.

    Where there are more rows, the last line says how many.
    """
    found = list(rows_as_text(answer.limit(PRINTED_ROWS + 1)))
    rows = [["null" if value is None else str(value) for value in row] for row in found[:PRINTED_ROWS]]
    rows = [[re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "?", text) for text in row] for row in [answer.columns, *rows]]
    widths = [max(map(_width, column)) for column in zip(*rows)]
    numbers = [bool(re.match("tinyint|smallint|int$|bigint|float|double|decimal", kind)) for _, kind in answer.dtypes]

    def aligned(text: str, width: int, is_number: bool) -> str:
        blanks = " " * (width - _width(text))
        return blanks + text if is_number else text + blanks

    lines = ["  ".join(map(aligned, row, widths, numbers)).rstrip() for row in rows]
    if len(found) > PRINTED_ROWS:
        lines.append(f"({PRINTED_ROWS:,} of {answer.count():,} rows; --csv prints all)")
    return lines


def _width(text: str) -> int:
    """The columns that a text takes on a terminal."""
    widths = {"W": 2, "F": 2}
    return sum(0 if unicodedata.combining(char) else widths.get(unicodedata.east_asian_width(char), 1) for char in text)


# ---- The command -----------------------------------------------------------------------------------------


def ask(settings: Settings, work: str) -> None:
    """Print the answer to a query of the tables in settings.output, as a table or as CSV."""
    sql = _sql_of(settings.query)
    storage = storage_of(settings.output, settings.aws)
    check_complete(storage)
    with tables_session(storage, work) as spark, _in_one_line():
        open_tables(spark, storage.place)
        answer = query(spark, sql)
        with to_a_reader():
            if settings.csv:
                write_csv(answer, sys.stdout)
            else:
                print("\n".join(as_table(answer)))


def _sql_of(given: str) -> str:
    """The SQL that --query gives: as it is, in a file, or with '-' on standard input."""
    is_name = os.path.exists(given) or re.fullmatch(r"[\w./-]+", given)  # no SQL is one word
    if not is_name:
        return given
    try:
        content = sys.stdin.buffer.read() if given == "-" else Path(given).read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise UsageError(f"can't read the query {given}: {said}: name a file, or give the SQL itself") from None
