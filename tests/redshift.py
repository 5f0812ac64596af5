"""Redshift for the tests: the Data API's interface before a real PostgreSQL; what it isn't asked goes to moto.

The external schema is made of what the Glue catalogue says, and of the Parquet files at its partitions' places alone.
"""

import datetime
import json
import re
import subprocess
import tempfile
import threading
import uuid
from pathlib import Path

import duckdb
import oracle
from postgres import ADMIN, PASSWORD
from proxy import Api
from s3 import client_of as s3_of
from tables import COLUMNS, columns_of, environment

CLUSTER, WORKGROUP = "music", "listening"
EXTERNAL = re.compile(
    r"CREATE EXTERNAL SCHEMA IF NOT EXISTS (\"\w+\") FROM DATA CATALOG DATABASE '([^']+)' "
    r"IAM_ROLE (?:default|'arn:aws:iam::\d{12}:role/\w+')(?: CATALOG_ID '\d{12}')?$"
)
# What a transaction block, or the Data API, refuses.
REFUSED = re.compile(r"BEGIN|COMMIT|END|TRUNCATE|VACUUM|(CREATE|DROP|ALTER) EXTERNAL TABLE", re.IGNORECASE)
TYPES = {"bigint": "bigint", "int": "integer", "double": "double precision", "string": "text", "timestamp": "timestamp"}
# What Redshift has besides, for the template of all databases.
GETDATE = "CREATE FUNCTION getdate() RETURNS timestamp LANGUAGE sql AS $$SELECT now() AT TIME ZONE 'UTC'$$"
ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def translated(sql):
    """A statement in PostgreSQL's words: no distribution, no sort keys, the bytes of a VARCHAR checked."""
    sql = re.sub(r"\n\) (DISTSTYLE|DISTKEY)\b.*", "\n)", sql)
    return re.sub(r'("\w+") VARCHAR\((\d+)\)', r"\1 text CHECK (octet_length(\1) <= \2)", sql)


class Batch:
    """A batch that runs, as psql does it."""

    def __init__(self, id, sqls, script, command):
        self.id, self.sqls = id, sqls
        self.states, self.error, self.status = ["SUBMITTED"] * len(sqls), "", "STARTED"
        self.psql = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(PGPASSWORD=PASSWORD, PGTZ="UTC"),
        )
        threading.Thread(target=self.send, args=(script,), daemon=True).start()
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def send(self, script):
        try:
            self.psql.stdin.write(script)
            self.psql.stdin.close()
        except BrokenPipeError:
            pass

    def follow(self):
        """What psql says on standard error, a line before each statement, until it ends."""
        said, at = [], -1
        for line in self.psql.stderr:
            begun = re.fullmatch(r"at (\d+)\n", line)
            if not begun:
                said.append(re.sub(r"^psql:<stdin>:\d+: ", "", line))
                continue
            if at >= 0:
                self.states[at] = "FINISHED"
            at = int(begun[1])
            if at < len(self.sqls):
                self.states[at] = "STARTED"
        code = self.psql.wait()
        if self.status == "ABORTED":
            self.states = [state if state == "FINISHED" else "ABORTED" for state in self.states]
        elif code == 0:
            self.status = "FINISHED"
        else:
            self.error = "".join(line for line in said if not line.startswith("NOTICE"))
            self.states = [state if state == "FINISHED" else "ABORTED" for state in self.states]
            if at < len(self.sqls):
                self.states[at] = "FAILED"
            self.status = "FAILED"

    def cancel(self):
        self.status = "ABORTED"
        self.psql.kill()

    def described(self):
        parts = [
            {"Id": f"{self.id}:{number}", "Status": state, "QueryString": sql}
            for number, (state, sql) in enumerate(zip(self.states, self.sqls), 1)
        ]
        for part in parts:
            if part["Status"] == "FAILED":
                part["Error"] = self.error
        described = {"Id": self.id, "Status": self.status, "SubStatements": parts}
        return {**described, "Error": f"Query failed: {self.error}"} if self.error else described


class Redshift(Api):
    """The server. instead: {beginning of a statement: what PostgreSQL is told in its place}, for what goes wrong."""

    def __init__(self, moto, postgres, database):
        self.postgres, self.database, self.moto = postgres, database, moto
        self.batches, self.tokens, self.instead = {}, {}, {}
        super().__init__(moto)
        self.answers["BatchExecuteStatement"] = self.begin
        self.answers["DescribeStatement"] = lambda asked: (200, self.batches[asked["Id"]].described())
        self.answers["CancelStatement"] = self.end

    def begin(self, asked):
        if asked.get("ClientToken") in self.tokens:
            return 200, {"Id": self.tokens[asked["ClientToken"]]}
        place = asked.get("ClusterIdentifier"), asked.get("WorkgroupName")
        wrong = [sql for sql in asked["Sqls"] if REFUSED.match(sql)]
        if place not in ((CLUSTER, None), (None, WORKGROUP)):
            return 400, {"__type": "ValidationException", "Message": "Redshift endpoint doesn't exist in this region."}
        if wrong or len(asked["Sqls"]) > 40:
            return 400, {"__type": "ValidationException", "Message": f"not in a batch: {wrong}"}
        id = str(uuid.uuid4())
        self.tokens[asked["ClientToken"]] = id
        command = self.postgres.command(ADMIN, self.database)
        self.batches[id] = Batch(id, asked["Sqls"], self.script(asked["Sqls"]), command)
        return 200, {"Id": id}

    def end(self, asked):
        self.batches[asked["Id"]].cancel()
        return 200, {"Status": True}

    def script(self, sqls):
        """What psql is given: one transaction, a line on standard error before each statement."""
        lines = ["BEGIN;"]
        for number, sql in enumerate(sqls):
            lines.append(f"\\warn at {number}")
            instead = [text for beginning, text in self.instead.items() if sql.startswith(beginning)]
            external = EXTERNAL.match(sql)
            if instead:
                lines.append(f"{instead[0]};")
            elif external:
                lines += self.external(*external.groups())
            else:
                lines.append(f"{translated(sql)};")
        return "\n".join([*lines, "COMMIT;", f"\\warn at {len(sqls)}", ""])

    def external(self, schema, database):
        """The lines that make an external schema, its tables filled with what lies in S3 now."""
        lines = [f"DROP SCHEMA IF EXISTS {schema} CASCADE;", f"CREATE SCHEMA {schema};"]
        for table in glue_of(self.moto).get_tables(DatabaseName=database)["TableList"]:
            columns = [(column["Name"], column["Type"]) for column in table["StorageDescriptor"]["Columns"]]
            keys = [(column["Name"], column["Type"]) for column in table["PartitionKeys"]]
            types = ", ".join(f'"{column}" {TYPES[kind]}' for column, kind in columns + keys)
            place = f'{schema}."{table["Name"]}"'
            lines += [f"CREATE TABLE {place} ({types});", f"COPY {place} FROM STDIN;"]
            for row in spectrum(self.moto, database, table, columns):
                lines.append("\t".join("\\N" if value is None else str(value).translate(ESCAPES) for value in row))
            lines.append("\\.")
        return lines


def glue_of(address):
    import boto3

    return boto3.client("glue", "us-east-1", endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b")


READ = {}


def spectrum(address, database, table, columns):
    """The rows of an external table, which are read once for a run."""
    key = address, database, table["Name"], table["Parameters"]["sparkify.run_id"]
    if key not in READ:
        READ[key] = read_external(address, database, table, columns)
    return READ[key]


def read_external(address, database, table, columns):
    """The rows of an external table: those of the files at its place, or at its partitions' with their values."""
    places = [((), table["StorageDescriptor"]["Location"])]
    if table["PartitionKeys"]:
        found = glue_of(address).get_partitions(DatabaseName=database, TableName=table["Name"])["Partitions"]
        places = [(part["Values"], part["StorageDescriptor"]["Location"]) for part in found]
    names = [f"make_timestamp(epoch_us({name}))" if kind == "timestamp" else name for name, kind in columns]
    s3, rows = s3_of(address), []
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        for number, (values, place) in enumerate(places):
            bucket, _, prefix = place.removeprefix("s3://").partition("/")
            values = [None if value == "__HIVE_DEFAULT_PARTITION__" else int(value) for value in values]
            for entry in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
                file = Path(folder, f"{number}-{Path(entry['Key']).name}")
                s3.download_file(bucket, entry["Key"], str(file))
                read = connection.execute(f"SELECT {', '.join(names)} FROM read_parquet('{file}')").fetchall()
                rows += [(*row, *values) for row in read]
    return rows


def rows_in(postgres, database, schema="sparkify"):
    """{table: its rows}, as tables.read_table gives those of Parquet."""
    queries = [f"SELECT '{name}', row_to_json(t) FROM {schema}.{name} AS t" for name in COLUMNS]
    rows = {name: [] for name in COLUMNS}
    for line in postgres.sql(*queries, database=database):
        name, _, text = line.partition("|")
        row = json.loads(text)
        if "start_time" in row:
            second, _, fraction = row["start_time"].partition(".")
            micros = datetime.timedelta(microseconds=int(fraction.ljust(6, "0")))
            row["start_time"] = datetime.datetime.fromisoformat(second) + micros
        rows[name].append(tuple(row[column] for column, _ in columns_of(name)))
    return {name: oracle.sort_rows(of_table) for name, of_table in rows.items()}
