"""Writing to staging: the tables, in files of a useful size, and the rejected records."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, DataFrameWriter, Observation, SparkSession
from pyspark.sql import functions as F

from sparkify.errors import JobError
from sparkify.parallel import in_parallel
from sparkify.places import for_hadoop, is_s3
from sparkify.publish import read_journal, staging_of
from sparkify.report import Steps
from sparkify.schema import TABLES
from sparkify.session import is_local, kill_java, use_s3a
from sparkify.source import KINDS, Counts


class Written(NamedTuple):
    """The rows of a table that was written; how many of them have a song_id."""

    rows: int
    with_song: int


@contextlib.contextmanager
def staging_folder(spark: SparkSession, output: Any, run_id: str, work: str) -> Iterator[str]:
    """The folder where a run writes its tables: one of this machine, or on S3, where executors are on others.

    What is in it is kept after a JobError, such as the audit's, and where the next run is to complete the publishing;
    else it goes.
    """
    staging = output.path(staging_of(run_id))
    if is_s3(output.place) and is_local(spark):
        staging = f"{work}/staging"  # uploading from here takes a third of the requests of writing to S3
    elif is_s3(output.place):
        use_s3a(spark, output.aws)
    try:
        yield staging
    except JobError:
        raise  # its message names the folder; who lost the lock must delete nothing
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            kill_java(spark)
        with contextlib.suppress(Exception):
            if read_journal(output) is None:
                output.discard(staging_of(run_id))
        raise


def write_tables(tables: dict[str, DataFrame], output: str, steps: Steps) -> dict[str, Written]:
    """Write tables below a folder, side by side; gives what was written of each."""

    def write(table: str) -> Written:
        with steps(f"write {table}"):
            return write_table(tables[table], table, output)

    return dict(zip(tables, in_parallel(write, tables)))


def write_table(rows: DataFrame, table: str, output: str) -> Written:
    """Write the rows of a table below a folder, its partition columns in the names of the folders alone.

    Spark's own hint gathers the rows of a partition in one file, or in several of about 128 MB. Without rows Spark
    writes no file for a partitioned table, and readers wouldn't find its columns: one file without rows, in a
    partition of zeros, keeps them.
    """
    partitions = TABLES[table].partitions
    place = f"{output}/{table}"
    # As a method the hint takes no columns in 3.5.
    hint = f"REBALANCE({', '.join(partitions)})" if partitions else "REBALANCE"
    gathered = rows.sparkSession.sql(f"SELECT /*+ {hint} */ * FROM {{rows}}", rows=rows)
    if table == "songs":  # a reader that wants one artist skips the rest of a file by its statistics
        gathered = gathered.sortWithinPartitions("year", "artist_id")
    seen = Observation()
    song = F.col("song_id") if "song_id" in rows.columns else F.lit(None)
    counted = gathered.observe(seen, F.count("*").alias("rows"), F.count(song).alias("with_song"))
    writer(counted).partitionBy(*partitions).parquet(for_hadoop(place))
    written = Written(**seen.get)
    if partitions and not written.rows:
        zeros = "/".join(f"{name}=0" for name in partitions)
        writer(rows.limit(0).drop(*partitions)).parquet(for_hadoop(f"{place}/{zeros}"))
    return written


def write_rejected(records: DataFrame, kind: str, counts: Counts, max_rejected: float, output: str) -> None:
    """Write the rejected records of a kind as JSON: source, reason, raw. Raises JobError where they are too many."""
    if not counts.rejected:
        return
    place = f"{output}/_rejected/{kind}"
    rejected = records.where(F.col("reason").isNotNull()).select("source", "reason", "raw")
    writer(rejected.coalesce(1)).json(for_hadoop(place))
    if counts.rejected / counts.total > max_rejected:
        raise JobError(
            f"{counts.rejected:,} of {counts.total:,} {KINDS[kind]} records ({counts.rejected / counts.total:.2%}) "
            f"can't be used, more than --max-rejected {max_rejected:g} allows; see {place}"
        )


def writer(rows: DataFrame) -> DataFrameWriter:
    """The writer of a DataFrame. What it writes counts only after the audit: tasks may put files there directly."""
    committer = "mapreduce.fileoutputcommitter"
    return rows.write.option(f"{committer}.algorithm.version", "2").option(f"{committer}.marksuccessfuljobs", "false")
