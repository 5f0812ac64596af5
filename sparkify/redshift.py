"""The five tables in Amazon Redshift: filled from the files on S3, by way of the Glue catalogue, in one transaction.

Redshift reads the registered tables through an external schema (Spectrum), so that partition columns are columns there
and no driver is needed here: the statements are sent by boto3's redshift-data, which runs a batch as one transaction.
TRUNCATE would commit it, and external tables can't be made, changed or granted in one: none of these is used.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sparkify.aws import POLL_ATTEMPTS, aws_calls, aws_client
from sparkify.catalog import database_name
from sparkify.config import Settings
from sparkify.errors import JobError, PlaceError, UsageError
from sparkify.jdbc import columns_of, literal, quoted
from sparkify.places import is_redshift
from sparkify.publish import published
from sparkify.report import Watch, loaded_in_words, say, to_a_reader
from sparkify.schema import TABLES
from sparkify.storage import storage_of

URL_FORMS = "redshift://CLUSTER/DATABASE or redshift-serverless://WORKGROUP/DATABASE"
SHORT_TEXT, TEXT = "VARCHAR(256)", "VARCHAR(65535)"  # bytes; the longer is as long as Redshift can hold
TYPES = {"bigint": "BIGINT", "int": "INTEGER", "double": "DOUBLE PRECISION"}
TYPES["timestamp"] = "TIMESTAMP"  # without a zone: UTC, as Spectrum gives what is in the files
TYPES["string"] = TEXT  # what people have written: one odd record is to stop no load
# Redshift plans its memory by the length, so the columns by which is joined and grouped are short.
TYPES.update(dict.fromkeys(["song_id", "artist_id", "level", "gender"], SHORT_TEXT))
# How the rows lie, chosen for data/questions, with the reason, which is in the table's comment there. Of the sample's
# 6,800 plays 4,635 match no song, while no user has more than 431; thirteen of the seventeen questions name user_id.
COPIED = "A copy on each node: the catalogue is small, and joins with it move no plays."
LAYOUT = {
    "time": (
        'DISTKEY ("start_time") SORTKEY ("start_time")',
        "It is as long as songplays, too long for a copy on each node; a join by start_time moves only songplays.",
    ),
    "users": (
        'DISTKEY ("user_id") SORTKEY ("user_id")',
        "A user lies on the node of the user's plays: a join by user_id moves nothing.",
    ),
    "artists": ('DISTSTYLE ALL SORTKEY ("artist_id")', COPIED),
    "songs": ('DISTSTYLE ALL SORTKEY ("song_id")', COPIED),
    "songplays": (
        'DISTKEY ("user_id") SORTKEY ("start_time")',
        "Distributed by user_id, as most questions count or order within a user; song_id is null in plays that match "
        "no song, and these would lie on one node. Sorted by start_time: a question about some days reads these.",
    ),
}  # in the order in which they are made and filled: what is referred to comes first
POLL_SECONDS = 2
PERMISSIONS = "redshift-data:* and redshift:GetClusterCredentials, or redshift-serverless:GetCredentials,"
UNTOUCHED = "the tables in Redshift are as they were"
HINTS = {  # by what Redshift says
    "depend": "drop what uses the table first, and make it again after the load",
    "too long|exceeds the (max|length)": "`--dry-run` prints the SQL: make the column wider there, and run that",
    "assume ?role|not authorized|access ?denied|forbidden": (
        "the role, IAM_ROLE of dl.cfg, must be the cluster's, and needs s3:GetObject, s3:ListBucket and glue:Get*"
    ),
    "permission denied|must be owner": "let the database's owner GRANT the user that right",
}


class Warehouse(NamedTuple):
    """A database in Redshift: its URL, what the Data API is told of it, and where the tables go and come from there."""

    place: str
    connection: dict[str, str]
    schema: str
    source: str  # the external schema
    external: str  # what it is of, as CREATE EXTERNAL SCHEMA takes it


class Statement(NamedTuple):
    """A statement of a load: what it does, its SQL, and what to do where it fails."""

    what: str
    sql: str
    hint: str = ""


class Unfollowed(JobError):
    """A load that goes on by itself, and how to look at it."""


# ---- Where to ----------------------------------------------------------------------------------------------


def warehouse_of(settings: Settings) -> Warehouse | None:
    """The database in Redshift that settings name, None where that is none. Raises UsageError for what can't be one."""
    if not is_redshift(settings.load):
        return None
    found = re.fullmatch(r"(redshift|redshift-serverless)://([a-z0-9][a-z0-9-]{0,62})/([\w$.-]{1,127})", settings.load)
    if not found:
        raise UsageError(f"--load: give {URL_FORMS}, nothing else: the user is in dl.cfg")
    if not settings.catalog.get("database"):
        raise UsageError(
            "--load redshift… reads the tables through the AWS Glue Data Catalog: add --catalog DATABASE, or DATABASE "
            "in dl.cfg's [CATALOG]"
        )
    asked, connection = settings.redshift, {"Database": found[3]}
    user = {"DbUser": asked.get("db_user"), "SecretArn": asked.get("secret_arn")}
    connection.update({key: value for key, value in user.items() if value})
    if all(user.values()):
        raise UsageError("dl.cfg's [REDSHIFT] has both DB_USER and SECRET_ARN: give one, or none")
    if found[1] == "redshift":
        connection["ClusterIdentifier"] = found[2]
    else:
        connection["WorkgroupName"] = found[2]
        if user["DbUser"]:
            raise UsageError("a workgroup takes no DB_USER: leave it out of dl.cfg's [REDSHIFT], or give SECRET_ARN")
    schema = asked.get("schema", "sparkify")
    if not re.fullmatch("[a-z_][a-z0-9_]{0,99}", schema) or schema.startswith("pg_"):
        raise UsageError("SCHEMA in dl.cfg's [REDSHIFT] isn't a name of lower-case letters, digits and _: choose one")
    external = _external(settings)
    # Another catalogue, or another role, is another schema: an old one isn't what the statement says.
    source = f"{schema}_lake_{hashlib.sha256(external.encode()).hexdigest()[:8]}"
    return Warehouse(settings.load, connection, schema, source, external)


def _external(settings: Settings) -> str:
    """What the external schema is of: the catalogue's database, and the role that reads it."""
    name, catalog_id = database_name(settings), settings.catalog.get("id")
    role = settings.redshift.get("iam_role", "default")
    if role != "default" and not re.fullmatch(r"arn:aws[\w-]*:iam::\d{12}:role/[\w+=,.@/:-]+", role):
        raise UsageError("IAM_ROLE in dl.cfg's [REDSHIFT] is no role: give arn:aws:iam::ACCOUNT:role/NAME, or default")
    if catalog_id and not re.fullmatch(r"[\w:/-]+", catalog_id):
        raise UsageError("ID in dl.cfg's [CATALOG] is no catalogue's: give the number of its account")
    words = [f"DATABASE {literal(name)}", f"IAM_ROLE {role if role == 'default' else literal(role)}"]
    if catalog_id:
        words.append(f"CATALOG_ID {literal(catalog_id)}")
    return " ".join(words)


# ---- The SQL -----------------------------------------------------------------------------------------------


def statements(target: Warehouse, run_id: str, rows: Mapping[str, int]) -> Iterator[Statement]:
    """What loads the published tables of a run, of so many rows each; to be run as one transaction."""
    yield _check_ours(target.schema)
    yield Statement("make the schema", f"CREATE SCHEMA IF NOT EXISTS {quoted(target.schema)}")
    opened = f"CREATE EXTERNAL SCHEMA IF NOT EXISTS {quoted(target.source)} FROM DATA CATALOG {target.external}"
    yield Statement("open the catalogue", opened)
    yield _create_loads(target.schema)
    new = {table: quoted(target.schema, f"{table}_new") for table in LAYOUT}
    for table, (layout, reason) in LAYOUT.items():
        yield Statement(f"make {table}", _create(table, new, layout))
        comment = literal(f"{TABLES[table].description} {reason}")
        yield Statement(f"describe {table}", f"COMMENT ON TABLE {new[table]} IS {comment}")
        columns, source = ", ".join(map(quoted, TABLES[table].types)), quoted(target.source, table)
        yield Statement(f"fill {table}", f"INSERT INTO {new[table]} ({columns})\nSELECT {columns}\nFROM {source}")
        yield _count(table, new[table], rows[table])
    # What refers to others goes first. Not CASCADE: a view of somebody's stays, and stops the load.
    old = ", ".join(quoted(target.schema, table) for table in reversed(LAYOUT))
    yield Statement("drop the old tables", f"DROP TABLE IF EXISTS {old}")
    for table in LAYOUT:
        yield Statement(f"rename {table}", f"ALTER TABLE {new[table]} RENAME TO {quoted(table)}")
    columns = ", ".join(quoted(name) for name in ("run_id", "loaded_at", *TABLES))
    values = ", ".join([literal(run_id), "GETDATE()", *[str(rows[table]) for table in TABLES]])
    loads = quoted(target.schema, "loads")
    yield Statement("note the load", f"INSERT INTO {loads} ({columns}) VALUES ({values})")


def _check_ours(schema: str) -> Statement:
    """Fails where tables of these names are there that no load has made: then there is no table of the loads."""
    names = ", ".join(map(literal, ("loads", *TABLES)))
    loads = "sum(CASE WHEN tablename = 'loads' THEN 1 ELSE 0 END) = 0"
    sql = (
        f"SELECT 1 / CASE WHEN count(*) > 0 AND {loads} THEN 0 ELSE 1 END\n"
        f"FROM pg_tables WHERE schemaname = {literal(schema)} AND tablename IN ({names})"
    )
    hint = f"the schema {schema} has tables of these names that no load has made: choose another SCHEMA in dl.cfg"
    return Statement("look at the old tables", sql, hint)


def _create_loads(schema: str) -> Statement:
    columns = ['"run_id" VARCHAR(64) NOT NULL', '"loaded_at" TIMESTAMP NOT NULL']
    columns += [f"{quoted(table)} BIGINT NOT NULL" for table in TABLES]
    loads = quoted(schema, "loads")
    return Statement("make loads", f"CREATE TABLE IF NOT EXISTS {loads} (\n    " + ",\n    ".join(columns) + "\n)")


def _create(table: str, new: dict[str, str], layout: str) -> str:
    """CREATE TABLE of a new table. The planner believes its keys, and nobody enforces them: the run's audit has."""
    contract = TABLES[table]
    lines = [*columns_of(table, TYPES), f"PRIMARY KEY ({quoted(contract.key)})"]
    for column, other in contract.references.items():
        lines.append(f"FOREIGN KEY ({quoted(column)}) REFERENCES {new[other]} ({quoted(TABLES[other].key)})")
    return f"CREATE TABLE {new[table]} (\n    " + ",\n    ".join(lines) + f"\n) {layout}"


def _count(table: str, new: str, rows: int) -> Statement:
    """Fails, by a division by zero, where a new table hasn't the rows that were published."""
    sql = f"SELECT 1 / CASE WHEN count(*) = {rows} THEN 1 ELSE 0 END FROM {new}"
    hint = f"{table} hasn't got the {rows:,} rows that were published: was it replaced meanwhile? Load it again"
    return Statement(f"count {table}", sql, hint)


# ---- The load ----------------------------------------------------------------------------------------------


def load_registered(settings: Settings, target: Warehouse | None) -> None:
    """Load what is published in settings.output and registered into a target, if there is one. Raises JobError."""
    if target is None:
        return
    database = settings.catalog["database"]
    again = f"python etl.py --load {target.place} --catalog {database} --no-run --output {settings.output}"
    try:
        output = storage_of(settings.output, settings.aws)
        about = published(output)
        _load(output.aws, target, about)
        if published(output) != about:
            raise JobError("the tables are loaded, but another run has published others meanwhile")
    except Unfollowed:
        raise
    except (UsageError, PlaceError, JobError) as error:
        raise JobError(f"{error}; to load again: `{again}`") from None


def print_sql(settings: Settings) -> None:
    """Print the SQL that loads what is published in settings.output, for a client that runs it as it stands."""
    target = warehouse_of(settings)
    about = published(storage_of(settings.output, settings.aws))
    with to_a_reader():
        print(f"-- The tables of run {about['run_id']}, into {target.place}, in one transaction\nBEGIN;")
        for statement in statements(target, about["run_id"], about["rows"]):
            print(f"-- {statement.what}\n{statement.sql};")
        print("COMMIT;")


def _load(aws: dict[str, str], target: Warehouse, about: dict[str, Any]) -> None:
    """Send the statements and follow them to their end."""
    sent = list(statements(target, about["run_id"], about["rows"]))
    request = {
        **target.connection,
        "Sqls": [statement.sql for statement in sent],
        "StatementName": f"sparkify-etl {about['run_id']}",
        # What boto3 sends again after a lost answer is the same load; who calls again wants another one.
        "ClientToken": f"{about['run_id']}-{uuid.uuid4().hex[:8]}",
    }
    try:
        with aws_calls(target.place, PERMISSIONS):
            load_id = aws_client(aws, "redshift-data").batch_execute_statement(**request)["Id"]
    except PlaceError as error:
        raise JobError(f"{error}; {UNTOUCHED}") from None
    client = aws_client(aws, "redshift-data", attempts=POLL_ATTEMPTS)
    word = f"--region {client.meta.region_name} --id {load_id}"
    look, end = (f"aws redshift-data {call}-statement {word}" for call in ("describe", "cancel"))
    ways = f"to look at it: {look}; to end it: {end}"
    say(f"loading into {target.place}; {ways}")
    try:
        with aws_calls(target.place, "redshift-data:DescribeStatement"):
            ended = _follow(client, load_id, sent)
    except (KeyboardInterrupt, PlaceError) as error:
        why = f"{error}; " if isinstance(error, PlaceError) else ""
        raise Unfollowed(f"{why}stopped watching; the load goes on; {ways}") from None
    if ended["Status"] != "FINISHED":
        raise JobError(f"{target.place}: {_why(ended, sent)}; {UNTOUCHED}")
    say(loaded_in_words(target.place, target.schema, about["run_id"], about["rows"]))


def _follow(client: Any, load_id: str, sent: list[Statement]) -> dict[str, Any]:
    """Wait until a load has ended, saying each statement that begins; what the Data API says of it then."""
    watch = Watch()
    while True:
        described = client.describe_statement(Id=load_id)
        if described["Status"] in ("FINISHED", "FAILED", "ABORTED"):
            return described
        done = [part for part in described.get("SubStatements", ()) if part["Status"] == "FINISHED"]
        watch.show(f"{len(done) + 1} of {len(sent)}: {sent[len(done)].what}" if len(done) < len(sent) else "commit")
        time.sleep(POLL_SECONDS)


def _why(ended: dict[str, Any], sent: list[Statement]) -> str:
    """The statement that failed, Redshift's reason, and what to do about it, in one line."""
    parts = sorted(ended.get("SubStatements", ()), key=lambda part: int(part["Id"].rpartition(":")[2]))
    failed = [(part, statement) for part, statement in zip(parts, sent) if part["Status"] == "FAILED"]
    reason = next((part["Error"] for part, _ in failed if part.get("Error")), ended.get("Error") or "")
    reason = re.sub(r"-{3,}", " ", re.sub(r"^ERROR:\s*", "", reason))
    reason = " ".join(reason.split())[:400] or f"it was {ended['Status']}, and Redshift gives no reason"
    hint = next((hint for words, hint in HINTS.items() if re.search(words, reason, re.IGNORECASE)), "")
    if not failed:
        return ": ".join(filter(None, [reason, hint]))
    statement = failed[0][1]
    sql = " ".join(statement.sql.split())
    shortened = sql if len(sql) <= 90 else f"{sql[:90]}…"
    return ": ".join(filter(None, [f"can't {statement.what} ({shortened})", reason, statement.hint or hint]))
