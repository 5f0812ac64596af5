"""The five tables in PostgreSQL: written to a schema of their own, keyed, counted, and swapped in one transaction.

Each task of Spark's writer commits alone, so nobody is to see what it writes: it goes to a schema NAME_load_of_etl_py.
At its end the old tables are dropped, the new ones moved into the schema NAME, and a row of NAME.loads names the run.
Of several loads one has the advisory lock, which ends with its connection: it drops what a dead one has left.
"""

import contextlib
import os
import time
from collections.abc import Collection
from typing import Any, Optional

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkify.config import Settings
from sparkify.errors import Ending, JobError, UsageError
from sparkify.java import postgres_packages
from sparkify.jdbc import DRIVER, Connection, Target, code_of, columns_of, database_calls, literal, quoted
from sparkify.parallel import in_parallel
from sparkify.publish import published
from sparkify.query import read_table, tables_session
from sparkify.report import Steps, Watch, loaded_in_words, say
from sparkify.schema import TABLES
from sparkify.storage import storage_of

TYPES = {"bigint": "bigint", "int": "integer", "double": "double precision", "string": "text"}
TYPES["timestamp"] = "timestamp with time zone"  # a moment, whatever the zones of the server and of who asks
STAGING = "_load_of_etl_py"  # ends the name of the schema that a load writes to: no one else's may end so
LOCK_WAIT = 60  # seconds that a load waits for another one
POLL_SECONDS = 0.5
SWAP_WAIT = 300  # seconds that a swap waits for those who read the old tables
# One attempt to lock the old tables. Readers wait behind it; and after a second the server would see a deadlock between
# it and a reader, and might end the reader.
LOCK_TIMEOUT = "100ms"
NOT_LOCKED, DEADLOCK = "55P03", "40P01"  # PostgreSQL's codes
UNCHANGED = "the database is as it was"
WRITERS = 8  # connections at once for a table
MANY_ROWS = 100_000  # from so many on, a table is worth several tasks
ABOUT_LOADS = "One row a load of the five tables, the last one theirs: the run that made them, and their rows."
LOADS = """(
    load_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_id text NOT NULL,
    loaded_at timestamp with time zone NOT NULL DEFAULT now(), {}
)"""


# --- The whole load ---------------------------------------------------------------------------------------------------


def check_load(spark: SparkSession, target: Target) -> None:
    """Raise UsageError where a load can't begin: no connection, no right to make a schema or tables."""
    schema, table = quoted(target.schema), quoted(target.schema, f"a table{STAGING}")
    with database_calls(target, UsageError), contextlib.closing(Connection(spark, target)) as connection:
        connection.do("BEGIN", f"CREATE SCHEMA IF NOT EXISTS {schema}", f"CREATE TABLE {table} ()", "ROLLBACK")


def load_tables(
    spark: SparkSession, target: Target, storage: Any, about: dict[str, Any], copy: str, steps: Steps
) -> dict[str, Any]:
    """Load what is published in a storage; gives what a report says of it. copy: a folder that may have it, too.

    Raises JobError, and the database is as it was before.
    """
    place = copy if os.path.isdir(os.path.join(copy, "songplays")) else storage.place  # what is here needs no S3A
    loaded = {"into": target.place, "schema": target.schema, **about}

    def check_same() -> None:
        with contextlib.suppress(UsageError):
            if published(storage) == about:
                return
        raise JobError(f"{target.place}: the tables in {place} were replaced while they were loaded")

    with database_calls(target), contextlib.closing(Connection(spark, target)) as connection:
        with steps("wait for other loads"):
            _lock(connection, target)
        if _loaded_run(connection, target) == about["run_id"]:
            say(f"run {about['run_id']} is in {target.place}, schema {target.schema} already: nothing was loaded")
            return {**loaded, "loaded": False, "replaced": 0}
        _check_tables(connection, target)
        staging = target.schema + STAGING
        drop_staging = f"DROP SCHEMA IF EXISTS {quoted(staging)} CASCADE"
        connection.do(drop_staging)  # what a load has left that was killed
        try:
            with steps("load tables"):
                _create(connection, staging)
                with steps.bar(spark):
                    replaced = _write(spark, target, place, about, staging)
            with steps("load keys"):
                _add_references(connection, staging)
                _count(connection, staging, about["rows"], target)
            check_same()
            with steps("swap"):
                _swap(connection, target, staging, about)
        except Exception:
            with contextlib.suppress(Exception):
                connection.do(drop_staging)
            check_same()  # else that may be the reason
            raise
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
        before = f"{ending.outcome}; " if ending.outcome else ""
        ending.outcome = f"{before}{UNCHANGED}"
        load_tables(spark, into, storage, about, storage.place, steps)
        ending.outcome = f"{before}the tables are loaded"


def _lock(connection: Connection, target: Target) -> None:
    """Wait until no other load into the schema is under way. The lock goes with the connection, however that ends."""
    key = f"hashtext('sparkify-etl'), hashtext({literal(target.schema)})"
    other = f"another load into schema {target.schema} is under way"
    watch = Watch()
    while connection.ask(f"SELECT pg_try_advisory_lock({key})") != [("t",)]:
        _wait(watch, LOCK_WAIT, f"{other}: waiting for it", f"{target.place}: {other}: wait until it ends")


def _wait(watch: Watch, most: float, what_for: str, refusal: str) -> None:
    """Say what is waited for, and wait a moment. Raises JobError with the refusal after so many seconds in all."""
    watch.show(what_for)
    if watch.seconds() > most:
        raise JobError(refusal)
    time.sleep(POLL_SECONDS)


def _loaded_run(connection: Connection, target: Target) -> str:
    """The run whose tables are there; empty where there is none."""
    if len(_old_tables(connection, target)) < len(TABLES) or not _has_loads(connection, target):
        return ""
    loads = quoted(target.schema, "loads")
    found = connection.ask(f"SELECT run_id FROM {loads} ORDER BY load_id DESC LIMIT 1")
    return found[0][0] if found else ""


# --- Before anything is written ---------------------------------------------------------------------------------------


def _old_tables(connection: Connection, target: Target) -> dict[str, str]:
    """{name as SQL takes it: oid} of what has the name of a table in the schema."""
    names = ", ".join(map(literal, TABLES))
    return dict(
        connection.ask(
            "SELECT oid::regclass, oid FROM pg_class "
            f"WHERE relnamespace = to_regnamespace({literal(quoted(target.schema))}) AND relname IN ({names})"
        )
    )


def _has_loads(connection: Connection, target: Target) -> bool:
    return connection.ask(f"SELECT to_regclass({literal(quoted(target.schema, 'loads'))})") != [(None,)]


def _check_tables(connection: Connection, target: Target) -> None:
    """Raise JobError where a table of that name isn't a load's, or where something depends on one, by its name."""
    old = _old_tables(connection, target)
    if not old:
        return
    if not _has_loads(connection, target):
        name = next(iter(old))
        raise JobError(f"{target.place}: {name} is there, and no load has made it: choose another SCHEMA in dl.cfg")
    oids = f"({', '.join(old.values())})"
    found = connection.ask(
        f"""SELECT DISTINCT replace(pg_describe_object(classid, objid, 0), 'rule _RETURN on ', ''), refobjid::regclass
        FROM pg_depend AS d WHERE refclassid = 'pg_class'::regclass AND refobjid IN {oids}
            AND (classid = 'pg_policy'::regclass OR deptype = 'n' AND NOT EXISTS (  -- what goes with its table
                SELECT FROM pg_depend AS own WHERE own.classid = d.classid AND own.objid = d.objid
                AND own.refclassid = d.refclassid AND own.refobjid IN {oids} AND own.deptype IN ('a', 'i')))"""
    )
    if found:
        what, table = found[0]
        others = f", and {len(found) - 1} more" if found[1:] else ""
        raise JobError(f"{target.place}: {what} depends on {table}{others}: drop it, and make it again after the load")


# --- Written, keyed, counted ------------------------------------------------------------------------------------------


def _create(connection: Connection, staging: str) -> None:
    """The schema of a load, with the five tables, without keys."""
    statements = [f"CREATE SCHEMA {quoted(staging)}"]
    for table, contract in TABLES.items():
        place = quoted(staging, table)
        statements.append(f"CREATE TABLE {place} ({', '.join(columns_of(table, TYPES))})")
        statements.append(f"COMMENT ON TABLE {place} IS {literal(contract.description)}")
        for column, (_, description) in contract.columns.items():
            statements.append(f"COMMENT ON COLUMN {place}.{quoted(column)} IS {literal(description)}")
    connection.do(*statements)


def _write(spark: SparkSession, target: Target, place: str, about: dict[str, Any], staging: str) -> int:
    """Write the five tables side by side, each with its key and its indexes; gives how many rows had a NUL."""
    options = {"url": target.url, "driver": DRIVER, "numPartitions": str(WRITERS), **target.properties}
    cores = min(WRITERS, spark.sparkContext.defaultParallelism)

    def write(table: str) -> int:
        rows, with_nul = _without_nul(read_table(spark, place, table), table)
        if about["rows"][table] > MANY_ROWS and len(rows.inputFiles()) < cores:  # a file is mostly read by one task
            rows = rows.repartition(cores, TABLES[table].key)
        rows.write.format("jdbc").options(**options, dbtable=quoted(staging, table)).mode("append").save()
        with contextlib.closing(Connection(spark, target)) as connection:
            _add_indexes(connection, staging, table)
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


def _add_indexes(connection: Connection, staging: str, table: str) -> None:
    """A table's primary key, an index for each of its references, and what the planner wants to know."""
    place = quoted(staging, table)
    connection.do(f"ALTER TABLE {place} ADD PRIMARY KEY ({quoted(TABLES[table].key)})")
    connection.do(*[f"CREATE INDEX ON {place} ({quoted(column)})" for column in TABLES[table].references])
    connection.do(f"ANALYZE {place}")


def _add_references(connection: Connection, staging: str) -> None:
    """The foreign keys, once all tables have their primary keys."""
    for table, contract in TABLES.items():
        for column, other in contract.references.items():
            key = f"{quoted(staging, other)} ({quoted(TABLES[other].key)})"
            connection.do(f"ALTER TABLE {quoted(staging, table)} ADD FOREIGN KEY ({quoted(column)}) REFERENCES {key}")


def _count(connection: Connection, staging: str, rows: dict[str, int], target: Target) -> None:
    """Raise JobError where a table has other rows than those that were to be loaded."""
    for table, wanted in rows.items():
        ((found,),) = connection.ask(f"SELECT count(*) FROM {quoted(staging, table)}")
        if int(found) != wanted:
            raise JobError(f"{target.place}: {int(found):,} of {wanted:,} rows arrived in {table}: load it again")


# --- Swapped ----------------------------------------------------------------------------------------------------------


def _swap(connection: Connection, target: Target, staging: str, about: dict[str, Any]) -> None:
    """Put the new tables in the place of the old ones, as soon as nobody reads these."""
    watch = Watch()
    while True:
        try:
            connection.do("BEGIN")
            _swap_now(connection, target, staging, about)
            connection.do("COMMIT")
            return
        except Py4JError as error:
            with contextlib.suppress(Py4JError):
                connection.do("ROLLBACK")
            if code_of(error) not in (NOT_LOCKED, DEADLOCK):
                raise
        readers = _readers(connection, target)
        refusal = f"{target.place}: the old tables are in use all the time, by {readers}: end that, or wait"
        _wait(watch, SWAP_WAIT, f"waiting for who uses the old tables: {readers}", refusal)


def _swap_now(connection: Connection, target: Target, staging: str, about: dict[str, Any]) -> None:
    """The statements of a swap. The grants are asked for behind the lock, so that none is lost."""
    old, grants = _old_tables(connection, target), []
    if old:
        names = ", ".join(old)
        connection.do(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        grants = _grants(connection, old.values())
        connection.do(f"DROP TABLE {names}")  # not CASCADE: a view of somebody's stays
    connection.do(f"CREATE SCHEMA IF NOT EXISTS {quoted(target.schema)}")
    connection.do(*[f"ALTER TABLE {quoted(staging, table)} SET SCHEMA {quoted(target.schema)}" for table in TABLES])
    loads, columns = quoted(target.schema, "loads"), [quoted(table) for table in TABLES]
    if not _has_loads(connection, target):
        connection.do(f"CREATE TABLE {loads} {LOADS.format(', '.join(f'{column} bigint' for column in columns))}")
        connection.do(f"COMMENT ON TABLE {loads} IS {literal(ABOUT_LOADS)}")
    values = ", ".join([literal(about["run_id"]), *[str(about["rows"][table]) for table in TABLES]])
    connection.do(f"INSERT INTO {loads} (run_id, {', '.join(columns)}) VALUES ({values})")
    connection.do(f"DROP SCHEMA {quoted(staging)}", *grants)


def _grants(connection: Connection, oids: Collection[str]) -> list[str]:
    """The statements that give the rights on tables, and on columns of them, again."""
    found = connection.ask(
        f"""SELECT format('GRANT %s%s ON %s TO %s%s', privilege_type, on_column, oid::regclass,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
            CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
        FROM (
            SELECT c.oid, relowner, '' AS on_column, a.* FROM pg_class AS c, aclexplode(relacl) AS a
            UNION ALL SELECT c.oid, relowner, format(' (%I)', attname), a.*
            FROM pg_class AS c JOIN pg_attribute ON attrelid = c.oid, aclexplode(attacl) AS a
        ) AS given WHERE oid IN ({", ".join(oids)}) AND grantee <> relowner"""
    )
    return [grant for (grant,) in found]


def _readers(connection: Connection, target: Target) -> str:
    """Who has a lock on the old tables, as 'user (process …), …'."""
    oids = ", ".join(_old_tables(connection, target).values()) or "0"
    found = connection.ask(
        "SELECT DISTINCT coalesce(usename, 'the server'), pid FROM pg_locks JOIN pg_stat_activity USING (pid) "
        f"WHERE relation IN ({oids}) AND granted AND pid <> pg_backend_pid()"
    )
    return ", ".join(f"{user} (process {process})" for user, process in found) or "somebody"
