#!/usr/bin/env python3
"""Sparkify's data lake: the JSON of a music streaming service in, a star schema in Parquet out.

    python etl.py                                           the sample zips in data/ -> output/
    python etl.py --input FOLDER --output FOLDER            a folder with song_data/ and log_data/, or the two zips
    python etl.py --input s3://IN --output s3://OUT         from and to S3; --bucket OUT for --output s3://OUT
    spark-submit etl.py --input FOLDER --output FOLDER      on a cluster: master, memory and cores are the cluster's
    python etl.py --emr --input s3://IN --output s3://OUT   on an EMR cluster that is started for it from here
    python etl.py --catalog DATABASE --output s3://OUT      after the run, Athena, Spectrum and EMR know the tables
    python etl.py --load postgresql://… --output FOLDER     after the run, a database has the tables, too
    python etl.py --query FILE_OR_SQL --output FOLDER       ask the five tables there something
    python etl.py --recover --output FOLDER                 complete a publishing that was interrupted

In a notebook: `import etl`, `spark = etl.spark_session()`, then `etl.process_song_data(spark, "data", "lake")`,
`etl.process_log_data(spark, "data", "lake")`, `etl.open_tables(spark, "lake")`. Importing does nothing else.

The words used here:
    play        an event of the app's log whose page is NextSong; its key is user, session, item in session and ts
    record      an event or a song as it is read: used, or rejected and kept with its source, the reason and its text
    staging     the hidden folder where a run writes its tables, until all of them are published together; a laptop
                whose output is on S3 writes them to a folder of its own first, and uploads them there
    audit       the rules that must hold for what was staged; nothing is published before they do

Records are read in Python: by the driver where the input is small and no spark-submit started this, else in the tasks,
with which Spark sends the functions of sparkify/: see Input in source.py. All else is Spark's own work.
"""

import sys

if sys.version_info < (3, 9):
    sys.stderr.write("etl.py: it needs Python 3.9 or newer, and this is %d.%d: try python3.11\n" % sys.version_info[:2])
    sys.exit(2)

import contextlib
import signal
from pathlib import Path
from typing import Optional, Union

try:
    from pyspark.sql import Column, DataFrame, SparkSession, Window
    from pyspark.sql import functions as F

    from sparkify.audit import audit, audit_rejected
    from sparkify.catalog import check_catalog, register_published
    from sparkify.config import MAX_REJECTED, Settings, read_settings
    from sparkify.emr import run_on_emr, stop_cluster
    from sparkify.errors import Ending
    from sparkify.java import postgres_packages
    from sparkify.jdbc import Target, target_of
    from sparkify.lock import Lock
    from sparkify.parallel import in_parallel
    from sparkify.places import place_of
    from sparkify.postgres import UNCHANGED, check_load, load_only, load_tables
    from sparkify.publish import check_output, last_published, new_run_id, prepare, publish, recover_only, staging_of
    from sparkify.query import ask, open_tables, query
    from sparkify.redshift import load_registered, print_sql, warehouse_of
    from sparkify.report import Steps, conclude, input_in_report, say, tables_in_report, warn_of_smaller
    from sparkify.schema import ARTIST_VALUES, PLAY_KEY, PLAY_VALUES, SONG_VALUES, SONGPLAY_VALUES, TABLES, USER_VALUES
    from sparkify.session import session, shuffle_tasks, spark_session, stop
    from sparkify.source import Input, find_input, opened
    from sparkify.staging import Written, staging_folder, write_rejected, write_tables
    from sparkify.storage import storage_of
except ImportError as error:
    missing = {
        "sparkify": "put the folder sparkify beside etl.py, or give spark-submit --py-files sparkify.zip",
        "pyspark": "activate the environment that has it, or pip install -r requirements.txt",
    }
    if error.name not in missing:
        raise
    print(f"etl.py: {error.name} is missing: {missing[error.name]}", file=sys.stderr)
    sys.exit(2)

# What a notebook uses: the functions of this file, and these.
__all__ = ["TABLES", "Input", "audit", "find_input", "open_tables", "query", "spark_session", "stop"]
__all__ += ["process_song_data", "process_log_data", "songs_table", "artists_table", "songplays_table", "users_table"]
__all__ += ["time_table", "songs_of", "chosen_songs", "songs_by_name", "plays_of", "first_of_each", "main"]

JANUARY_1971 = 365 * 86_400_000  # ms
LARGE_CATALOGUE = 500_000_000  # bytes of JSON, a million songs: above it songs_by_name (100 MB) isn't broadcast


# --- The five tables: one function each -------------------------------------------------------------------------------


def first_of_each(rows: DataFrame, key: list[str], order: list[Column]) -> DataFrame:
    """One row for each key: the first by columns of the rows themselves, so that no order of files matters."""
    by_key = Window.partitionBy(*key).orderBy(*order)
    numbered = rows.withColumn("copy", F.row_number().over(by_key))
    return numbered.where("copy = 1").drop("copy")


def ascending(columns: list[str]) -> list[Column]:
    """The order by some columns, one after the other, nulls last."""
    return [F.col(name).asc_nulls_last() for name in columns]


def songs_of(records: DataFrame) -> DataFrame:
    """Records of song files -> song records: those that can be used, copies among them."""
    return records.where(F.col("reason").isNull())


def chosen_songs(songs: DataFrame) -> DataFrame:
    """Song records -> one a song: of several the first by title, then artist_id and so on, as SONG_VALUES has them."""
    return first_of_each(songs, ["song_id"], ascending(SONG_VALUES))


def songs_table(songs: DataFrame) -> DataFrame:
    """Song records -> songs, one row a song: song_id, title, artist_id (string), duration (double, s), year (int)."""
    return chosen_songs(songs).select("song_id", "title", "artist_id", "duration", "year")


def artists_table(songs: DataFrame) -> DataFrame:
    """Song records -> artists, one row an artist: artist_id, name, location (string), latitude, longitude (degrees).

    Of an artist's names the smallest by its UTF-8 bytes is taken, 'X' before 'X feat. Y'; then of the locations.
    """
    distinct = first_of_each(songs, ["artist_id"], ascending(ARTIST_VALUES))
    return distinct.select(
        "artist_id",
        F.col("artist_name").alias("name"),
        F.col("artist_location").alias("location"),
        F.col("artist_latitude").alias("latitude"),
        F.col("artist_longitude").alias("longitude"),
    )


def songs_by_name(songs: DataFrame) -> DataFrame:
    """Song records -> song (its title), artist (its name), songs: array of (song_id, artist_id, duration).

    The songs are those of songs_table. One row a name, so that a join with it can't multiply plays.
    """
    names = chosen_songs(songs).groupBy(F.col("title").alias("song"), F.col("artist_name").alias("artist"))
    return names.agg(F.collect_list(F.struct("song_id", "artist_id", "duration")).alias("songs"))


def plays_of(events: DataFrame) -> DataFrame:
    """Event records -> plays, copies among them: PLAY_KEY, PLAY_VALUES and is_latest. Only a play has a ts."""
    return events.where(F.col("ts").isNotNull()).select(*PLAY_KEY, *PLAY_VALUES, "is_latest")


def songplays_table(plays: DataFrame, names: DataFrame) -> DataFrame:
    """Plays and songs_by_name -> songplays, one row a play, whether its song is in the catalogue or not.

    Columns: songplay_id (bigint), start_time (timestamp, UTC), user_id (bigint), level, song_id, artist_id (string),
    session_id (bigint), location, user_agent (string), year, month (int, of start_time).
    songplay_id is a 64-bit hash of the play's key. Two of n plays share one with odds of n² / 2^65: 1 in 600,000 for
    8 million plays, 1 in 37 for a billion; the audit finds it and publishes nothing.
    Of several songs of a play's name the one with the nearest duration wins, then the smallest song_id. A distance that
    isn't known, for lack of a duration or of the play's length, is the largest.
    """
    ts_first = PLAY_KEY[::-1]  # nearly every play has its own ts: the sort rarely has to look at the other columns
    distinct = first_of_each(plays, ts_first, ascending(SONGPLAY_VALUES))
    matched = distinct.join(names, ["song", "artist"], "left")

    def distance(song: Column) -> Column:
        known = F.abs(song.duration - F.col("length"))
        return F.struct(F.coalesce(known, F.lit(float("inf"))).alias("distance"), song.song_id, song.artist_id)

    nearest = F.array_min(F.transform("songs", distance))
    chosen = matched.select("*", F.timestamp_millis("ts").alias("start_time"), nearest.alias("match"))
    return chosen.select(
        F.xxhash64(*PLAY_KEY).alias("songplay_id"),
        *["start_time", "user_id", "level", "match.song_id", "match.artist_id", "session_id", "location", "user_agent"],
        F.year("start_time").alias("year"),
        F.month("start_time").alias("month"),
    )


def users_table(plays: DataFrame) -> DataFrame:
    """Plays -> users, one row a user with a play: user_id (bigint), first_name, last_name, gender, level (string).

    All are those of the user's last play: by ts, then item_in_session, then session_id.
    """
    # Of plays that were read together, those with the largest ts of each user: the last play is among them.
    candidates = plays.where("is_latest")
    latest = [F.col(name).desc() for name in ("ts", "item_in_session", "session_id")]
    last_plays = first_of_each(candidates, ["user_id"], [*latest, *ascending(PLAY_VALUES)])
    return last_plays.select("user_id", *USER_VALUES, "level")


def time_table(plays: DataFrame) -> DataFrame:
    """Plays -> time, one row a distinct start_time (timestamp, UTC): hour, day, week, month, year, weekday (int).

    Weeks are ISO weeks; weekday is 1 for Monday to 7 for Sunday.
    """
    # Nearly every play has its own ts. Without repartition Spark would look for equal ones before the shuffle, too, and
    # without a number it would join the parts behind it to larger ones, which don't fit a processor's cache.
    distinct = plays.select("ts").repartition(shuffle_tasks(plays.sparkSession), "ts").distinct()
    times = distinct.select(F.timestamp_millis("ts").alias("start_time"))
    return times.select(
        "start_time",
        F.hour("start_time").alias("hour"),
        F.dayofmonth("start_time").alias("day"),
        F.weekofyear("start_time").alias("week"),
        F.month("start_time").alias("month"),
        F.year("start_time").alias("year"),
        (F.weekday("start_time") + 1).alias("weekday"),
    )


# --- Read, derive, write ----------------------------------------------------------------------------------------------


def process_song_data(
    spark: SparkSession,
    input_data: Union[str, Path, Input],
    output_data: Union[str, Path],
    max_rejected: float = MAX_REJECTED,
    steps: Optional[Steps] = None,
) -> dict[str, Written]:
    """Read the songs in input_data, a place or an Input; write songs, artists and rejected records below output_data.

    Gives what was written of each table. Raises JobError where more than max_rejected, a fraction of the song records,
    can't be used; Spark's own error where one of these is in output_data already: remove it first.
    """
    steps = steps or Steps()
    source = opened(input_data, ["songs"])
    output = place_of(str(output_data))

    with steps("read songs"):
        records = source.records(spark, "songs")
    counts = source.counts["songs"]
    write_rejected(records, "songs", counts, max_rejected, output)
    songs = songs_of(records)
    tables = {"songs": songs_table(songs), "artists": artists_table(songs)}
    return write_tables(tables, output, steps)


def process_log_data(
    spark: SparkSession,
    input_data: Union[str, Path, Input],
    output_data: Union[str, Path],
    max_rejected: float = MAX_REJECTED,
    steps: Optional[Steps] = None,
) -> dict[str, Written]:
    """Read logs and songs in input_data; write songplays, users, time and rejected records below output_data.

    Gives and raises what process_song_data does, but rejected songs are only left out here.
    """
    steps = steps or Steps()
    source = opened(input_data)
    output = place_of(str(output_data))

    with steps("read logs"):
        events, songs = source.records(spark, "logs"), source.records(spark, "songs")
    counts = source.counts["logs"]
    write_rejected(events, "logs", counts, max_rejected, output)
    if counts.used and counts.last < JANUARY_1971:
        say("etl.py: warning: all plays are in 1970: is ts in seconds? It is read as milliseconds")
    elif not counts.used:
        say("etl.py: warning: no event is a play: songplays, users and time are empty")
    plays = plays_of(events)
    names = songs_by_name(songs_of(songs))
    if source.size_of("songs") <= LARGE_CATALOGUE:
        names = F.broadcast(names)
    tables = {"songplays": songplays_table(plays, names), "users": users_table(plays), "time": time_table(plays)}
    return write_tables(tables, output, steps)


# --- The run ----------------------------------------------------------------------------------------------------------


def run(settings: Settings, ending: Ending, into: Optional[Target]) -> None:
    """One run, told by settings: find the input, prepare, make the tables in staging, audit, publish and load them."""
    steps = Steps()
    with steps("find input"):
        source = find_input(settings.input, settings.aws)
        output = storage_of(settings.output, settings.aws)
        check_output(settings.input, output, settings.report, settings.aws)
    run_id = new_run_id()
    with contextlib.ExitStack() as held:  # Spark is stopped last: after the lock is released and the summary printed
        with Lock(output, run_id) as lock:
            ending.outcome = "nothing is published"
            source.read_ahead()
            with steps("start Spark"):
                spark = held.enter_context(session(ending.work, source.is_small, postgres_packages() if into else []))
            if into:
                check_load(spark, into)
            prepare(output, lock)
            with steps.bar(spark), staging_folder(spark, output, run_id, ending.work) as staging:
                arguments = spark, source, staging, settings.max_rejected, steps
                processes = process_song_data, process_log_data
                of_songs, of_logs = in_parallel(lambda process: process(*arguments), processes)
                written = {**of_songs, **of_logs}
                with steps("audit"):
                    plays = plays_of(source.records(spark, "logs"))
                    audit(spark, staging, songs_of(source.records(spark, "songs")), plays)
                    audit_rejected(spark, staging, source.counts)
                rows = {table: written[table].rows for table in TABLES}
                warn_of_smaller((last_published(output) or {}).get("rows", {}), rows)
                with steps("publish"):
                    if staging != output.path(staging_of(run_id)):
                        output.upload(staging, staging_of(run_id))
                    ending.outcome = "if the publishing had begun, the next run, or --recover, completes it"
                    publish(output, run_id, lock, rows)
            ending.outcome = "the tables are published"
            if into:
                ending.outcome += f"; {UNCHANGED}: --load … --no-run loads them"
        report = {
            "run_id": run_id,
            "seconds": steps.since_start(),
            "steps": steps.seconds,
            "input": input_in_report(source, rows),
            "tables": tables_in_report(output, settings.output, rows),
            "matched_plays": written["songplays"].with_song,
        }
        try:
            register_published(settings)
            if into:
                about = {"run_id": run_id, "rows": rows}
                report["load"] = load_tables(spark, into, output, about, staging, steps)
                ending.outcome = "the tables are published, and loaded"
        finally:
            report["seconds"] = steps.since_start()  # with the load
            conclude(report, settings)


def main(argv: Optional[list[str]] = None) -> int:
    """Run with the given arguments; returns the exit status: 0 done, 1 failed, 2 called wrongly."""
    with Ending() as ending:
        settings = read_settings(argv)
        if settings.cluster_to_stop:
            stop_cluster(settings)
        elif settings.recover:
            print(f"etl.py: {recover_only(storage_of(settings.output, settings.aws))}")
        elif settings.query is not None:
            ask(settings, ending.work)
        elif settings.dry_run:
            print_sql(settings)
        else:
            into = target_of(settings)  # what can't be loaded into is refused before anything is begun
            warehouse = warehouse_of(settings)
            check_catalog(settings)
            if settings.cluster is not None:
                report = run_on_emr(settings)
                ending.outcome = "the tables are published"
                conclude(report, settings)
            if settings.cluster is not None or settings.no_run:
                register_published(settings)
                load_only(settings, ending, into)  # PostgreSQL
            else:
                run(settings, ending, into)  # with its catalogue, and PostgreSQL
            load_registered(settings, warehouse)  # Redshift
    return ending.status


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the lock and what is staged are given up
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores the end of the terminal
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())
