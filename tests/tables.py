"""Running etl.py as a user does, and reading what it wrote without Spark: for the tests."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import duckdb
import oracle
import pyspark
import pytest

from sparkify import java
from sparkify.java import hadoop_package, jar_of

ROOT = Path(__file__).resolve().parent.parent
ETL = ROOT / "etl.py"

# The columns that each table promises, in order, and the ones that are in the names of its folders.
COLUMNS = {
    "songplays": "songplay_id bigint, start_time timestamp, user_id bigint, level string, song_id string, "
    "artist_id string, session_id bigint, location string, user_agent string, year int, month int",
    "users": "user_id bigint, first_name string, last_name string, gender string, level string",
    "songs": "song_id string, title string, artist_id string, duration double, year int",
    "artists": "artist_id string, name string, location string, latitude double, longitude double",
    "time": "start_time timestamp, hour int, day int, week int, month int, year int, weekday int",
}
PARTITIONS = {"songplays": ["year", "month"], "users": [], "songs": ["year"], "artists": [], "time": ["year", "month"]}
IN_PARQUET = {  # type -> (physical type, converted type)
    "bigint": ("INT64", None),
    "int": ("INT32", None),
    "double": ("DOUBLE", None),
    "string": ("BYTE_ARRAY", "UTF8"),
    "timestamp": ("INT64", "TIMESTAMP_MICROS"),  # any reader knows it; INT96 it does not
}


def columns_of(name):
    """[(column, type)] of a table."""
    return [tuple(column.split()) for column in COLUMNS[name].split(", ")]


def is_hidden(path):
    """Whether a relative path has a part that readers pass by."""
    return any(part[0] in "_." for part in Path(path).parts)


def listing(folder, hidden=True):
    """{relative path: bytes of the file, None for a folder} of everything in a folder."""
    paths = {path.relative_to(folder): path for path in Path(folder).rglob("*")}
    kept = {name.as_posix(): path for name, path in paths.items() if hidden or not is_hidden(name)}
    return {name: path.read_bytes() if path.is_file() else None for name, path in kept.items()}


def visible(folder):
    """The listing of what a reader sees in a folder."""
    return listing(folder, hidden=False)


# ---- Running ---------------------------------------------------------------------------------------------


def run_etl(*arguments, cwd, command=(sys.executable,), **options):
    """`python etl.py ARGUMENTS` in a process of its own."""
    options.setdefault("timeout", 300)
    return subprocess.run(
        [*map(str, command), str(ETL), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, **options
    )


# What etl.py sets where it starts Java itself.
FOR_SECONDS = {"JDK_JAVA_OPTIONS": " ".join(java.FOR_SECONDS)}


def until(condition, seconds=120):
    """Wait until a condition holds; what it is then. Two minutes are enough for a busy machine, too."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def environment(**changes):
    """The environment of this process with changes."""
    return {**os.environ, **changes}


def hadoop_jar(name, *options):
    """The jar of a package of the Hadoop in pyspark; Spark downloads it, by options besides, if no run has done it."""
    package = hadoop_package(name)
    jar = jar_of(package)
    if not jar.exists():
        submit = [Path(pyspark.__file__).parent / "bin/spark-submit", "--master", "local[1]", "--packages", package]
        version = ["--class", "org.apache.hadoop.util.VersionInfo", "spark-internal"]
        subprocess.run([*submit, *options, *version], check=True)
    return jar


# ---- Reading ---------------------------------------------------------------------------------------------


def read_table(output, name):
    """The rows of a written table, sorted, the columns in the promised order, a timestamp as a naive UTC datetime."""
    # As text: DuckDB before 2.0 can't cast the folder of nulls to a number.
    types = ", ".join(f"'{column}': VARCHAR" for column in PARTITIONS[name])
    hive = f", hive_partitioning = true, hive_types = {{{types}}}" if types else ""
    # A cast to TIMESTAMP would take the zone of the machine that the tests run on.
    columns = [f"make_timestamp(epoch_us({c}))" if kind == "timestamp" else c for c, kind in columns_of(name)]
    number = "CAST(NULLIF({0}, '__HIVE_DEFAULT_PARTITION__') AS INTEGER)"
    columns = [number.format(column) if column in PARTITIONS[name] else column for column in columns]
    sql = f"SELECT {', '.join(columns)} FROM read_parquet('{output}/{name}/**/*.parquet'{hive})"
    with duckdb.connect() as con:
        return oracle.sort_rows(con.execute(sql).fetchall())


def assert_schema(output, name):
    """Each file of a table has the promised columns, and the partition columns are in its folders alone."""
    expected = [(column, *IN_PARQUET[kind]) for column, kind in columns_of(name) if column not in PARTITIONS[name]]
    found = {}
    with duckdb.connect() as con:
        sql = "SELECT file_name, name, type, converted_type, num_children FROM parquet_schema(?)"
        for file, *column, children in con.execute(sql, [f"{output}/{name}/**/*.parquet"]).fetchall():
            if not children:  # the root has them
                found.setdefault(file, []).append(tuple(column))
    assert found, f"{name} has no Parquet file"
    for file, columns in found.items():
        assert columns == expected, f"the schema of {file}"
        folders = Path(file).parent.relative_to(Path(output, name)).parts
        assert [folder.split("=")[0] for folder in folders] == PARTITIONS[name], f"the folders of {file}"


def assert_rows(found, expected, name):
    """Two lists of rows are equal; the message shows the first rows that differ."""
    if found == expected:
        return
    extra, missing = Counter(found) - Counter(expected), Counter(expected) - Counter(found)
    lines = [f"{name}: {len(found)} rows, expected {len(expected)}"]
    for title, rows in (("only found", extra), ("only expected", missing)):
        lines.append(f"{title}: {sum(rows.values())}")
        lines += [f"    {row}" for row in oracle.sort_rows(rows)[:5]]
    pytest.fail("\n".join(lines), pytrace=False)


def assert_tables(output, expected):
    """The five tables in output have the promised schema and exactly the expected rows (as of oracle.five_tables)."""
    for name in COLUMNS:
        assert_schema(output, name)
    for name in COLUMNS:
        assert_rows(read_table(output, name), expected[name], name)
