"""The five tables in PostgreSQL: written to a schema of their own, keyed, counted, and swapped in one transaction.

Each task of Spark's writer commits alone, so nobody is to see what it writes: the schema NAME_load_… is of one load. At
its end the old tables are dropped, the new ones moved into the schema NAME, and a row of NAME.loads names the run.
What a dead load has left is dropped by the next one, which has the advisory lock: that ends with a connection.
"""

import contextlib
import os
import time
import uuid
from typing import Any, Optional

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkify.config import Settings
from sparkify.ending import Ending
from sparkify.errors import JobError, UsageError
from sparkify.jars import postgres_packages
from sparkify.jdbc import DRIVER, Database, Target, code_of, database_calls, literal, quoted
from sparkify.parallel import in_parallel
from sparkify.publish import published
from sparkify.query import read_table, tables_session
from sparkify.report import Steps, loaded_in_words, pause, say
from sparkify.schema import DESCRIPTIONS, NOT_NULL, REFERENCES, TABLES
from sparkify.storage import storage_of

TYPES = {"bigint": "bigint", "int": "integer", "double": "double precision", "string": "text"}
TYPES["timestamp"] = "timestamp with time zone"  # a moment, whatever the zones of the server and of who asks
MARK = "A load of etl.py that is under way, or was killed: "  # begins the comment of a schema that may be dropped
LOCK_WAIT = 60  # seconds that a load waits for another one
SWAP_WAIT = 300  # seconds that a swap waits for those who read the old tables
# One attempt to lock the old tables. Readers wait behind it; and after a second the server would see a deadlock between
# it and a reader, and might end the reader.
LOCK_TIMEOUT = "100ms"
NOT_LOCKED, DEADLOCK, DEPENDENT = "55P03", "40P01", "2BP01"  # PostgreSQL's codes
UNCHANGED = "the database is as it was"
WRITERS = 8  # connections at once for a table
MANY_ROWS = 100_000  # from so many on, a table is worth several tasks
ABOUT_LOADS = "One row a load of the five tables, the last one theirs: the run that made them, and their rows."
LOADS = """(
    load_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_id text NOT NULL,
    loaded_at timestamp with time zone NOT NULL DEFAULT now(), {}
)"""


class Patience:
    """Waits half a second at a time, at most some seconds in all; what for is said the first time."""

    def __init__(self, seconds: float):
        self.end, self.has_said = time.monotonic() + seconds, False

    def wait(self, what_for: str, refusal: str) -> None:
        """Raise JobError with the refusal once the seconds are over."""
        if time.monotonic() > self.end:
            raise JobError(refusal)
        if not self.has_said:
            say(what_for)
            self.has_said = True
        time.sleep(0.5)


# --- The whole load ---------------------------------------------------------------------------------------------------


def check_load(spark: SparkSession, target: Target) -> None:
    """Raise UsageError where a load can't begin: no connection, no right to make a schema or tables."""
    schema = literal(target.schema)
    with database_calls(target, UsageError), contextlib.closing(Database(spark, target)) as database:
        ((database_name, user, may_make, may_fill),) = database.ask(
            "SELECT current_database(), current_user, has_database_privilege(current_database(), 'CREATE'), "
            f"(SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = {schema})"
        )
    grant = None
    if may_make != "t":
        grant = f"DATABASE {quoted(database_name)}"
    elif may_fill == "f":
        grant = f"SCHEMA {quoted(target.schema)}"
    if grant:
        raise UsageError(f"{target.place}: {user} may not create there: GRANT CREATE ON {grant} TO {quoted(user)}")


def load_tables(
    spark: SparkSession, target: Target, storage: Any, about: dict[str, Any], copy: str, steps: Steps
) -> dict[str, Any]:
    """Load what is published in a storage; gives what a report says of it. copy: a folder that may have it, too.

    Raises JobError, and the database is as it was before.
    """
    place = copy if os.path.isdir(os.path.join(copy, "songplays")) else storage.place  # what is here needs no S3A
    loaded = {"into": target.place, "schema": target.schema, **about}

    def is_same() -> bool:
        with contextlib.suppress(UsageError):
            return published(storage) == about
        return False

    with database_calls(target), contextlib.closing(Database(spark, target)) as database:
        with steps("wait for other loads"):
            _lock(database, target)
        if _loaded_run(database, target) == about["run_id"]:
            say(f"run {about['run_id']} is in {target.place}, schema {target.schema} already: nothing was loaded")
            return {**loaded, "loaded": False, "replaced": 0}
        _drop_leftovers(database, target)
        _check_tables(database, target)
        staging = f"{target.schema}_load_{uuid.uuid4().hex[:8]}"
        try:
            with steps("load tables"):
                _create(database, staging, target, about["run_id"])
                with steps.bar(spark):
                    replaced = _write(spark, target, place, about, staging)
            with steps("load keys"):
                _add_references(database, staging)
                _count(database, staging, about["rows"], target)
            if not is_same():
                raise JobError(f"{target.place}: the tables in {place} were replaced while they were loaded")
            with steps("swap"):
                _swap(database, target, staging, about)
        except Exception as error:
            with contextlib.suppress(Exception):
                database.do(f"DROP SCHEMA IF EXISTS {quoted(staging)} CASCADE")
            if isinstance(error, JobError) or is_same():
                raise
            raise JobError(f"{target.place}: the tables in {place} were replaced while they were read") from None
    nul = f"; in {replaced:,} rows a NUL became U+FFFD" if replaced else ""
    say(loaded_in_words(target.place, target.schema, about["run_id"], about["rows"]) + nul)
    return {**loaded, "loaded": True, "replaced": replaced}


def load_only(settings: Settings, ending: Ending, into: Optional[Target]) -> None:
    """Load what lies in settings.output, where that is into PostgreSQL."""
    if into is None:
        return
    storage = storage_of(settings.output, settings.aws)
    about, steps = published(storage), Steps()
    with tables_session(storage, ending.work, postgres_packages()) as spark:
        check_load(spark, into)
        ending.outcome = UNCHANGED
        load_tables(spark, into, storage, about, storage.place, steps)


def _lock(database: Database, target: Target) -> None:
    """Wait until no other load into the schema is under way. The lock goes with the connection, however that ends."""
    key = f"hashtext('sparkify-etl'), hashtext({literal(target.schema)})"
    patience, other = Patience(LOCK_WAIT), f"another load into schema {target.schema} is under way"
    while database.ask(f"SELECT pg_try_advisory_lock({key})") != [("t",)]:
        patience.wait(f"{other}: waiting for it", f"{target.place}: {other}: wait until it ends")


def _loaded_run(database: Database, target: Target) -> str:
    """The run whose tables are there; empty where there is none."""
    if len(_old_tables(database, target)) < len(TABLES) or not _has_loads(database, target):
        return ""
    loads = quoted(target.schema, "loads")
    found = database.ask(f"SELECT run_id FROM {loads} ORDER BY load_id DESC LIMIT 1")
    return found[0][0] if found else ""


def _drop_leftovers(database: Database, target: Target) -> None:
    """Drop what loads have left that were killed: the lock says that none is under way."""
    begins = literal(f"{MARK}{quoted(target.schema)} ")
    left = database.ask(
        "SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace "
        f"WHERE starts_with(obj_description(oid, 'pg_namespace'), {begins})"
    )
    for schema, comment in left:
        database.do(f"DROP SCHEMA {quoted(schema)} CASCADE")
        say(f"dropped what the load of run {comment.rpartition(' ')[2]} left in {target.place}")


# --- Before anything is written ---------------------------------------------------------------------------------------


def _old_tables(database: Database, target: Target) -> dict[str, str]:
    """{name: oid} of what has the name of a table in the schema."""
    names = ", ".join(map(literal, TABLES))
    return dict(
        database.ask(
            "SELECT relname, c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace "
            f"WHERE nspname = {literal(target.schema)} AND relname IN ({names})"
        )
    )


def _has_loads(database: Database, target: Target) -> bool:
    return database.ask(f"SELECT to_regclass({literal(quoted(target.schema, 'loads'))})") != [(None,)]


def _check_tables(database: Database, target: Target) -> None:
    """Raise JobError where a table of that name isn't a load's, or where something depends on one, by its name."""
    old = _old_tables(database, target)
    if not old:
        return
    if not _has_loads(database, target):
        name = f"{target.schema}.{next(iter(old))}"
        raise JobError(f"{target.place}: {name} is there, and no load has made it: choose another SCHEMA in dl.cfg")
    oids = f"({', '.join(old.values())})"
    found = database.ask(
        f"""SELECT DISTINCT CASE relkind WHEN 'm' THEN 'materialized view ' ELSE 'view ' END || ev_class::regclass,
            refobjid::regclass
        FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = objid JOIN pg_class AS c ON c.oid = ev_class
        WHERE classid = 'pg_rewrite'::regclass AND refobjid IN {oids} AND ev_class NOT IN {oids}
        UNION SELECT 'foreign key ' || conname || ' of ' || conrelid::regclass, confrelid::regclass
        FROM pg_constraint WHERE contype = 'f' AND confrelid IN {oids} AND conrelid NOT IN {oids}
        UNION SELECT 'policy ' || polname, polrelid::regclass FROM pg_policy WHERE polrelid IN {oids}"""
    )
    if found:
        what, table = found[0]
        others = f", and {len(found) - 1} more" if found[1:] else ""
        raise JobError(f"{target.place}: {what} depends on {table}{others}: drop it, and make it again after the load")


# --- Written, keyed, counted ------------------------------------------------------------------------------------------


def _create(database: Database, staging: str, target: Target, run_id: str) -> None:
    """The schema of a load, with the five tables, without keys."""
    mark = literal(f"{MARK}{quoted(target.schema)} {run_id}")
    # Both in one transaction: a schema without the mark would be nobody's.
    statements = [f"CREATE SCHEMA {quoted(staging)}; COMMENT ON SCHEMA {quoted(staging)} IS {mark}"]
    for table in TABLES:
        place, (text, of_columns) = quoted(staging, table), DESCRIPTIONS[table]
        never_null = NOT_NULL.get(table, ())
        columns = [
            f"{quoted(column)} {TYPES[kind]}{' NOT NULL' if column in never_null else ''}"
            for column, kind in TABLES[table].types.items()
        ]
        statements.append(f"CREATE TABLE {place} ({', '.join(columns)})")
        statements.append(f"COMMENT ON TABLE {place} IS {literal(text)}")
        for column, said in of_columns.items():
            statements.append(f"COMMENT ON COLUMN {place}.{quoted(column)} IS {literal(said)}")
    database.do(*statements)


def _write(spark: SparkSession, target: Target, place: str, about: dict[str, Any], staging: str) -> int:
    """Write the five tables side by side, each with its key and its indexes; gives how many rows had a NUL."""
    options = {"url": target.url, "driver": DRIVER, "numPartitions": str(WRITERS), **target.properties}
    cores = min(WRITERS, spark.sparkContext.defaultParallelism)

    def write(table: str) -> int:
        rows, with_nul = _without_nul(read_table(spark, place, table), table)
        if about["rows"][table] > MANY_ROWS and len(rows.inputFiles()) < cores:  # a file is mostly read by one task
            rows = rows.repartition(cores, TABLES[table].key)
        rows.write.format("jdbc").options(**options, dbtable=quoted(staging, table)).mode("append").save()
        with contextlib.closing(Database(spark, target)) as database:
            _add_indexes(database, staging, table)
        return with_nul

    return sum(in_parallel(write, TABLES))


def _without_nul(rows: DataFrame, table: str) -> tuple[DataFrame, int]:
    """Rows with U+FFFD for each NUL, which PostgreSQL has no way to hold in a text; how many had one.

    They are counted by a query of their own: of what the JDBC writer is given, Spark 4 observes nothing.
    """
    texts = [column for column, kind in TABLES[table].types.items() if kind == "string"]
    with_nul = rows.where(F.concat_ws("", *texts).contains("\0")).count() if texts else 0
    if with_nul:
        rows = rows.withColumns({column: F.translate(column, "\0", "\ufffd") for column in texts})
    return rows, with_nul


def _add_indexes(database: Database, staging: str, table: str) -> None:
    """A table's primary key, an index for each of its references, and what the planner wants to know."""
    place = quoted(staging, table)
    database.do(f"ALTER TABLE {place} ADD PRIMARY KEY ({quoted(TABLES[table].key)})")
    database.do(*[f"CREATE INDEX ON {place} ({quoted(column)})" for column in REFERENCES.get(table, {})])
    database.do(f"ANALYZE {place}")


def _add_references(database: Database, staging: str) -> None:
    """The foreign keys, once all tables have their primary keys."""
    for table, references in REFERENCES.items():
        for column, other in references.items():
            key = f"{quoted(staging, other)} ({quoted(TABLES[other].key)})"
            database.do(f"ALTER TABLE {quoted(staging, table)} ADD FOREIGN KEY ({quoted(column)}) REFERENCES {key}")


def _count(database: Database, staging: str, rows: dict[str, int], target: Target) -> None:
    """Raise JobError where a table has other rows than those that were to be loaded."""
    for table, wanted in rows.items():
        ((found,),) = database.ask(f"SELECT count(*) FROM {quoted(staging, table)}")
        if int(found) != wanted:
            raise JobError(f"{target.place}: {int(found):,} of {wanted:,} rows arrived in {table}: load it again")


# --- Swapped ----------------------------------------------------------------------------------------------------------


def _swap(database: Database, target: Target, staging: str, about: dict[str, Any]) -> None:
    """Put the new tables in the place of the old ones, as soon as nobody reads these."""
    patience = Patience(SWAP_WAIT)
    while True:
        try:
            with database.transaction():
                _swap_now(database, target, staging, about)
                pause("swap before commit")
            return
        except Py4JError as error:
            if code_of(error) == DEPENDENT:
                _check_tables(database, target)
            if code_of(error) not in (NOT_LOCKED, DEADLOCK):
                raise
        readers = _readers(database, target)
        patience.wait(
            f"waiting for who uses the old tables: {readers}",
            f"{target.place}: the old tables are in use all the time, by {readers}: end that, or wait",
        )


def _swap_now(database: Database, target: Target, staging: str, about: dict[str, Any]) -> None:
    """The statements of a swap. The grants are asked for behind the lock, so that none is lost."""
    old = [quoted(target.schema, table) for table in _old_tables(database, target)]
    grants = []
    if old:
        database.do(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; LOCK TABLE {', '.join(old)} IN ACCESS EXCLUSIVE MODE")
        grants = _grants(database, target)
        database.do(f"DROP TABLE {', '.join(old)}")  # not CASCADE: a view of somebody's stays
    database.do(f"CREATE SCHEMA IF NOT EXISTS {quoted(target.schema)}")
    database.do(*[f"ALTER TABLE {quoted(staging, table)} SET SCHEMA {quoted(target.schema)}" for table in TABLES])
    loads, columns = quoted(target.schema, "loads"), [quoted(table) for table in TABLES]
    if not _has_loads(database, target):
        database.do(f"CREATE TABLE {loads} {LOADS.format(', '.join(f'{column} bigint' for column in columns))}")
        database.do(f"COMMENT ON TABLE {loads} IS {literal(ABOUT_LOADS)}")
    values = ", ".join([literal(about["run_id"]), *[str(about["rows"][table]) for table in TABLES]])
    database.do(f"INSERT INTO {loads} (run_id, {', '.join(columns)}) VALUES ({values})")
    database.do(f"DROP SCHEMA {quoted(staging)}", *grants)


def _grants(database: Database, target: Target) -> list[str]:
    """The statements that give the rights on the old tables, and on columns of them, again."""
    found = database.ask(
        f"""SELECT format('GRANT %s%s ON %I.%I TO %s%s', privilege_type, on_column, nspname, relname,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
            CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
        FROM (
            SELECT c.*, '' AS on_column, a.* FROM pg_class AS c, aclexplode(relacl) AS a
            UNION ALL SELECT c.*, format(' (%I)', attname), a.*
            FROM pg_class AS c JOIN pg_attribute ON attrelid = c.oid, aclexplode(attacl) AS a
        ) AS given JOIN pg_namespace AS n ON n.oid = relnamespace
        WHERE nspname = {literal(target.schema)} AND relname IN ({", ".join(map(literal, TABLES))})
            AND grantee <> relowner"""
    )
    return [grant for (grant,) in found]


def _readers(database: Database, target: Target) -> str:
    """Who has a lock on the old tables, as 'user (process …), …'."""
    oids = ", ".join(_old_tables(database, target).values()) or "0"
    found = database.ask(
        "SELECT DISTINCT coalesce(usename, 'the server'), pid FROM pg_locks JOIN pg_stat_activity USING (pid) "
        f"WHERE relation IN ({oids}) AND granted AND pid <> pg_backend_pid()"
    )
    return ", ".join(f"{user} (process {process})" for user, process in found) or "somebody"
