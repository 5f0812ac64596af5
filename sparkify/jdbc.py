"""A connection to PostgreSQL by Java's driver, whose password is looked up here, and what is said there as one line."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from sparkify.config import Settings
from sparkify.errors import JobError, UsageError, java_cause
from sparkify.places import is_redshift
from sparkify.report import say
from sparkify.schema import TABLES
from sparkify.session import jdbc_connection

DRIVER = "org.postgresql.Driver"
URL_FORM = "postgresql://USER@HOST:PORT/DATABASE"
URL_OPTIONS = ("sslmode", "sslrootcert")  # after a ? in the URL
LONGEST_SCHEMA = 40  # bytes: names made of it are longer, and PostgreSQL cuts them after 63 bytes
# What to do, by the code that IN_WORDS has for what is said, else by PostgreSQL's own, or its beginning.
HINTS = {
    "08": "start that server, or correct host and port",
    "28P01": "correct the password: PASSWORD in dl.cfg, else PGPASSWORD, else ~/.pgpass",
    "28": "let the server's pg_hba.conf admit this user from here; where it wants TLS, add ?sslmode=require to the URL",
    "2BP01": "drop that, and make it again after the load",
    "3D000": "make it, as with createdb, or name another",
    "42501": "let its owner GRANT that right, or name another SCHEMA in dl.cfg",
    "53100": "make room on the server's disk",
    "53300": "wait until others have gone, or allow more connections",
    "57P03": "wait until the server has started",
    "22": "PostgreSQL can't hold this value in a database of this encoding",
    "25006": "name the server that can be written to",
    "54000": "PostgreSQL can't hold a value of this size",
    "ssl": "let the server offer TLS with a certificate that is trusted here, or leave sslmode out",
}
IN_WORDS = {  # what executors say comes without a code, and that of whatever is wrong with connecting is the same
    "No space left|disk full|could not write init file": "53100",
    "too many clients|connection slots": "53300",
    "has no equivalent in encoding|invalid byte sequence": "22",
    "refused|timed out|unknown host|UnknownHost": "08",
    "no password was provided|password authentication failed": "28P01",
    "does not support SSL|SSL error|certificate": "ssl",
}


@dataclass(frozen=True)
class Target:
    """A database, and the schema there that the tables go to; place: the database as it may be printed."""

    place: str
    url: str
    properties: dict[str, str] = field(repr=False)  # of the driver: holds the password
    schema: str


# ---- Where to ----------------------------------------------------------------------------------------------


def target_of(settings: Settings) -> Optional[Target]:
    """The database that settings name, None where that is none of PostgreSQL's.

    Raises UsageError for a URL that is none; no message holds a password.
    """
    if not settings.load or is_redshift(settings.load):  # Redshift reads the registered tables itself
        return None
    if not settings.load.startswith(("postgresql://", "postgres://")):
        raise UsageError(f"--load takes {URL_FORM}, redshift://… or redshift-serverless://…")
    try:
        url = urlsplit(settings.load)
        port = int(os.environ.get("PGPORT") or 5432) if url.port is None else url.port
    except ValueError:
        raise UsageError(f"--load: the host, or the port, also PGPORT, can't be right: give {URL_FORM}") from None
    if url.password is not None:
        raise UsageError("the URL to load into has a password: put it in ~/.pgpass, PGPASSWORD or PASSWORD of dl.cfg")
    asked = dict(parse_qsl(url.query))
    unknown = [name for name in asked if name not in URL_OPTIONS]
    if unknown:
        raise UsageError(f"--load: {unknown[0]} in the URL means nothing here: only {' and '.join(URL_OPTIONS)} do")
    user = unquote(url.username or "") or os.environ.get("PGUSER")
    if not user:
        raise UsageError(f"--load names no user: give {URL_FORM}")
    host, database = url.hostname or "localhost", unquote(url.path.strip("/")) or user
    schema = settings.postgres.get("schema", "sparkify")
    if len(schema.encode()) > LONGEST_SCHEMA or schema.startswith("pg_") or schema == "information_schema":
        raise UsageError(f"SCHEMA in dl.cfg is reserved, or longer than {LONGEST_SCHEMA} bytes: choose another name")
    password = settings.postgres.get("password") or os.environ.get("PGPASSWORD")
    password = password or _password_in_file([host, str(port), database, user])
    properties = {"user": user, "ApplicationName": "sparkify-etl", "tcpKeepAlive": "true", **asked}
    properties.update({"connectTimeout": "20", "reWriteBatchedInserts": "true"})
    properties.update({"password": password} if password else {})
    host = f"[{host}]" if ":" in host else host
    address = f"{host}:{port}/{quote(database, safe='')}"
    return Target(f"postgresql://{quote(user, safe='')}@{address}", f"jdbc:postgresql://{address}", properties, schema)


def _password_in_file(wanted: list[str]) -> Optional[str]:
    """The password that ~/.pgpass, or the file that PGPASSFILE names, has for [host, port, database, user]."""
    path = Path(os.environ.get("PGPASSFILE") or "~/.pgpass").expanduser()
    try:
        if path.stat().st_mode & 0o077:
            say(f"etl.py: warning: {path} isn't read, as others may read it: chmod 600 {path}")
            return None
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        fields = re.fullmatch(r"((?:\\.|[^:\\])*):" * 4 + "(.*)", line)
        if fields and not line.startswith("#"):
            *given, password = [re.sub(r"\\(.)", r"\1", part) for part in fields.groups()]
            if all(name in (value, "*") for name, value in zip(given, wanted)):
                return password
    return None


# ---- A connection --------------------------------------------------------------------------------------------


class Connection:
    """A connection, in which each statement is a transaction of its own, but between BEGIN and COMMIT or ROLLBACK."""

    def __init__(self, spark: SparkSession, target: Target):
        self._connection = jdbc_connection(spark, DRIVER, target.url, target.properties)
        # What a role or a database sets for its analysts mustn't stop a load.
        self.do("SET statement_timeout = 0; SET lock_timeout = 0; SET standard_conforming_strings = on")
        self.do("SELECT set_config(name, '0', false) FROM pg_settings WHERE name LIKE 'idle%timeout'")

    def do(self, *statements: str) -> None:
        """Run statements, one after the other."""
        for statement in statements:
            self._connection.createStatement().execute(statement)

    def ask(self, query: str) -> list[tuple[Optional[str], ...]]:
        """The rows of a query, each value as its text or None."""
        found, rows = self._connection.createStatement().executeQuery(query), []
        columns = range(1, found.getMetaData().getColumnCount() + 1)
        while found.next():
            rows.append(tuple(found.getString(column) for column in columns))
        return rows

    def close(self) -> None:
        with contextlib.suppress(Py4JError):
            self._connection.close()


def quoted(*names: str) -> str:
    """Names as SQL takes them: 'a', 'b' -> "a"."b"."""
    return ".".join('"{}"'.format(name.replace('"', '""')) for name in names)


def literal(text: str) -> str:
    """A text as SQL takes it."""
    return "'{}'".format(text.replace("'", "''"))


def columns_of(table: str, types: dict[str, str]) -> list[str]:
    """The columns of a table as CREATE TABLE takes them; types: a database's, by a column's name or by its type."""
    contract = TABLES[table]
    never_null = {contract.key, *contract.never_null}
    return [
        f"{quoted(name)} {types.get(name) or types[kind]}{' NOT NULL' if name in never_null else ''}"
        for name, kind in contract.types.items()
    ]


# ---- What is said against it ---------------------------------------------------------------------------------


@contextlib.contextmanager
def database_calls(target: Target, refusal: type[Exception] = JobError) -> Iterator[None]:
    """What a database, its driver or Spark says against the block becomes a refusal of one line."""
    try:
        yield
    except (Py4JError, PySparkException) as error:
        state, said = code_of(error), said_by(error)
        hint = hint_for(state, said)
        raise refusal(f"{target.place}: {said}{': ' if hint else ''}{hint}") from None


def code_of(error: Exception) -> str:
    """PostgreSQL's code for an error that the driver has raised here; else empty."""
    with contextlib.suppress(Exception):  # what isn't the driver's has no such method
        return error.java_exception.getSQLState() or ""
    return ""


def said_by(error: Exception) -> str:
    """What the server or the driver says, with its detail, in one line."""
    text = str(error)
    found = re.findall(r"PSQLException: (.*(?:\n +Detail: .*)?)", text)
    said = found[-1] if found else java_cause(error)
    return re.sub(r"\s+", " ", re.sub(r"^(ERROR|FATAL): ", "", said)).strip(" .")[:400]


def hint_for(state: str, said: str) -> str:
    """What to do about an error, by its words, else by its code; empty where that is unknown."""
    by_words = next((code for words, code in IN_WORDS.items() if re.search(words, said, re.I)), "")
    return next((HINTS[code] for code in (by_words, state, state[:2]) if code in HINTS), "")
