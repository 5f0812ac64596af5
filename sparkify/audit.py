"""What must hold before anything is published: a list of rules, each a name and a query of the keys that break it."""

import contextlib
from typing import NamedTuple

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkify.errors import JobError
from sparkify.parallel import in_parallel
from sparkify.places import literal_path
from sparkify.query import read_table
from sparkify.schema import PLAY_KEY, TABLES
from sparkify.session import shuffle_tasks
from sparkify.source import Counts


class Rule(NamedTuple):
    """A name, the table it is about, and a query of that table's keys, as the column key, that break it."""

    name: str
    table: str
    query: str


def one_row_each(table: str, what: str, references: list[str], tasks: int) -> Rule:
    """A table has one row for each key that references, queries of keys, name, and no other row.

    A row in the folder of another month counts twice, so that it breaks the rule in the same pass. tasks: of a shuffle.
    """
    key, has_months = TABLES[table].key, "month" in TABLES[table].partitions
    own = "if(year <> year(start_time) OR month <> month(start_time), 2, 1)" if has_months else "1"
    # For nearly as many keys as rows, as in etl.time_table: with Spark's own ways it takes twice as long.
    # Fewer keys, and where one task does it all: without this shuffle.
    hint = f"REPARTITION({tasks}, key)" if has_months and tasks > 1 else f"COALESCE({tasks})"
    wanted = " ".join(f"UNION ALL SELECT key, 0 FROM ({query}) WHERE key IS NOT NULL" for query in references)
    query = f"""
        SELECT key FROM (
            SELECT /*+ {hint} */ key, own FROM (SELECT {key} AS key, {own} AS own FROM {{{table}}} {wanted})
        ) GROUP BY key HAVING sum(own) <> 1 OR count(*) = 1"""
    place = " in the folder of its month" if has_months else ""
    return Rule(f"one row for each {what}{place}, and no other", table, query)


def rules(tasks: int) -> list[Rule]:
    """What must hold, a rule a table; their queries are of the tables, play_ids and song_records."""
    played, recorded = "SELECT {} AS key FROM {{songplays}}", "SELECT {} AS key FROM {{song_records}}"
    references = {
        "songplays": ("play", ["SELECT songplay_id AS key FROM {play_ids}"]),
        "users": ("user of a play", [played.format("user_id")]),
        "time": ("start_time of a play", [played.format("start_time")]),
        "songs": ("song", [recorded.format("song_id"), played.format("song_id")]),
        "artists": ("artist", [recorded.format("artist_id"), played.format("artist_id")]),
    }
    return [one_row_each(table, what, queries, tasks) for table, (what, queries) in references.items()]


def audit(spark: SparkSession, staging: str, songs: DataFrame, plays: DataFrame) -> None:
    """Check what was staged against the song records and the plays it was made of.

    songs: with song_id and artist_id; plays: with PLAY_KEY; copies among both. Raises JobError with the table, the
    rule, how many keys break it, and one of them.
    """
    frames = dict(zip(TABLES, in_parallel(lambda table: read_table(spark, staging, table), TABLES)))
    ids = plays.select(F.xxhash64(*PLAY_KEY).alias("songplay_id"))

    def check(rule: Rule) -> None:
        # As text, a time is in UTC: collected as it is, it would be in the zone of the machine.
        keys = f"SELECT CAST(key AS STRING) AS text FROM ({rule.query})"
        broken = spark.sql(keys, play_ids=ids, song_records=songs, **frames)
        example = broken.head()
        if example:
            raise JobError(
                f"the audit failed: {rule.table}: {broken.count():,} keys break the rule «{rule.name}», for example "
                f"{TABLES[rule.table].key} = {example.text}; the new tables are kept in {staging}"
            )

    in_parallel(check, rules(shuffle_tasks(spark)))


def audit_rejected(spark: SparkSession, staging: str, counts: dict[str, Counts]) -> None:
    """Check that each rejected record is kept. Raises JobError."""
    for kind, counted in counts.items():
        place = f"{staging}/_rejected/{kind}"
        kept = 0
        if counted.rejected:
            with contextlib.suppress(AnalysisException):  # there is no such folder
                kept = spark.read.text(literal_path(place)).count()
        if kept != counted.rejected:
            raise JobError(
                f"the audit failed: {kept:,} of {counted.rejected:,} rejected {kind} are in {place}; the new tables "
                f"are kept in {staging}"
            )
