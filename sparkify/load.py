"""The published tables into a database, which the scheme of its URL chooses."""

import os
from typing import Any, Optional

from pyspark.sql import SparkSession

from sparkify import postgres, redshift
from sparkify.config import Settings
from sparkify.ending import Ending
from sparkify.errors import JobError, UsageError
from sparkify.jars import postgres_packages
from sparkify.jdbc import Target, target_of
from sparkify.places import is_redshift
from sparkify.postgres import Published
from sparkify.publish import published
from sparkify.query import tables_session, tables_size
from sparkify.report import Steps, loaded_in_words
from sparkify.storage import storage_of

UNCHANGED = "the database is as it was"


def load_target(settings: Settings) -> Optional[Target]:
    """Where Spark loads to, None where it doesn't. Raises UsageError for what can't be loaded into."""
    if not settings.load:
        return None
    if is_redshift(settings.load):  # it reads the registered tables itself
        redshift.target_of(settings)
        return None
    if not settings.load.startswith(("postgresql://", "postgres://")):
        raise UsageError(f"--load takes postgresql://USER@HOST:PORT/DATABASE, {redshift.URL_FORMS}")
    return target_of(settings)


def load_packages(into: Optional[Target]) -> list[str]:
    """What Java needs for a target."""
    return postgres_packages() if into else []


def check_load(spark: SparkSession, into: Optional[Target]) -> None:
    """Raise UsageError where a load into a target can't begin."""
    if into:
        postgres.check(spark, into)


def load_tables(spark: SparkSession, into: Target, storage: Any, staging: str, steps: Steps) -> dict:
    """Load the tables of a storage; gives what a report says of it. staging: a folder that may have a copy of them.

    Raises JobError; then the database is as it was.
    """
    try:
        about = published(storage)
    except UsageError as error:
        raise JobError(str(error)) from None
    has_copy = os.path.isdir(os.path.join(staging, "songplays"))  # what is here needs no S3A
    place = staging if has_copy else storage.place

    def is_same() -> bool:
        try:
            return published(storage) == about
        except UsageError:
            return False

    loaded = postgres.load(spark, into, Published(about["run_id"], about["rows"], place), is_same, steps)
    steps.say(in_words(loaded))
    return loaded


def load_only(settings: Settings, ending: Ending, into: Optional[Target]) -> None:
    """Load what lies in settings.output into a target, where Spark does it."""
    if into is None:
        return
    storage = storage_of(settings.output, settings.aws)
    published(storage)
    steps = Steps()
    with steps("find tables"):
        size = tables_size(storage)
    with tables_session(storage, ending.work, size, load_packages(into)) as spark:
        check_load(spark, into)
        ending.outcome = UNCHANGED
        load_tables(spark, into, storage, storage.place, steps)


def in_words(loaded: dict[str, Any]) -> str:
    """What a load has done, as a line."""
    if not loaded["loaded"]:
        return f"run {loaded['run_id']} is in {loaded['into']}, schema {loaded['schema']} already: nothing was loaded"
    nul = f"; in {loaded['replaced']:,} rows a NUL became U+FFFD" if loaded["replaced"] else ""
    return loaded_in_words(loaded["into"], loaded["schema"], loaded["run_id"], loaded["rows"]) + nul
