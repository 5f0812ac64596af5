"""The published tables into a database, which the scheme of its URL chooses."""

from typing import Optional

from sparkify import redshift
from sparkify.config import Settings
from sparkify.ending import Ending
from sparkify.errors import UsageError
from sparkify.jars import postgres_packages
from sparkify.jdbc import Target, target_of
from sparkify.places import is_redshift
from sparkify.postgres import check_load, load_tables
from sparkify.publish import published
from sparkify.query import tables_session
from sparkify.report import Steps
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


def load_only(settings: Settings, ending: Ending, into: Optional[Target]) -> None:
    """Load what lies in settings.output into a target, where Spark does it."""
    if into is None:
        return
    storage = storage_of(settings.output, settings.aws)
    about, steps = published(storage), Steps()
    with tables_session(storage, ending.work, postgres_packages()) as spark:
        check_load(spark, into)
        ending.outcome = UNCHANGED
        load_tables(spark, into, storage, about, storage.place, steps)
