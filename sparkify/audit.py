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


def one_row_each(table: str, what: str, references: list[str]) -> Rule:
    """A table has one row for each key that references, queries of keys, name, and no other row.

    A row in the folder of another month counts twice, so that it breaks the rule in the same pass.
    """
    key, has_months = TABLES[table].key, "month" in TABLES[table].partitions
    own = "if(year <> year(start_time) OR month <> month(start_time), 2, 1)" if has_months else "1"
    # For nearly as many keys as rows, as in etl.time_table: with Spark's own ways it takes twice as long.
    # Fewer keys: without a shuffle, where one task does it all.
    hint = "REPARTITION({tasks}, key)" if has_months else "COALESCE({tasks})"
    wanted = " ".join(f"UNION ALL SELECT key, 0 FROM ({query}) WHERE key IS NOT NULL" for query in references)
    query = f"""
        SELECT key FROM (
            SELECT /*+ {hint} */ key, own FROM (SELECT {key} AS key, {own} AS own FROM {{{table}}} {wanted})
        ) GROUP BY key HAVING sum(own) <> 1 OR count(*) = 1"""
    place = " in the folder of its month" if has_months else ""
    return Rule(f"one row for each {what}{place}, and no other", table, query)


PLAYED = "SELECT {} AS key FROM {{songplays}}"
RULES = [
    one_row_each("songplays", "play", ["SELECT songplay_id AS key FROM {play_ids}"]),
    one_row_each("users", "user of a play", [PLAYED.format("user_id")]),
    one_row_each("time", "start_time of a play", [PLAYED.format("start_time")]),
    one_row_each("songs", "song", ["SELECT song_id AS key FROM {song_records}", PLAYED.format("song_id")]),
    one_row_each("artists", "artist", ["SELECT artist_id AS key FROM {song_records}", PLAYED.format("artist_id")]),
]


def audit(spark: SparkSession, staging: str, songs: DataFrame, plays: DataFrame) -> None:
    """Check what was staged against the song records and the plays it was made of.

    songs: with song_id and artist_id; plays: with PLAY_KEY; copies among both. Raises JobError with the table, the
    rule, how many keys break it, and one of them.
    """
    frames = dict(zip(TABLES, in_parallel(lambda table: read_table(spark, staging, table), TABLES)))
    tasks = shuffle_tasks(spark)
    ids = plays.select(F.xxhash64(*PLAY_KEY).alias("songplay_id"))

    def check(rule: Rule) -> None:
        # As text, a time is in UTC: collected as it is, it would be in the zone of the machine.
        answer = f"SELECT count(*) AS keys, CAST(min(key) AS STRING) AS example FROM ({rule.query})"
        (found,) = spark.sql(answer, play_ids=ids, song_records=songs, tasks=tasks, **frames).collect()
        if found.keys:
            key = TABLES[rule.table].key
            raise JobError(
                f"the audit failed: {rule.table}: {found.keys:,} keys break the rule «{rule.name}», for example "
                f"{key} = {found.example}; the new tables are kept in {staging}"
            )

    in_parallel(check, RULES)


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
