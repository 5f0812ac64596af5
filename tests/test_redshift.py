"""The five tables in Redshift: etl.py against the Data API's interface before a real PostgreSQL, S3 and Glue of moto.

What that can't tell is whether Redshift itself takes the statements: sqlglot parses each in its dialect.
"""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import boto3
import postgres
import pyarrow
import pyarrow.parquet
import pytest
import sqlglot
from botocore.validate import ParamValidator
from redshift import CLUSTER, GETDATE, WORKGROUP, Redshift, rows_in
from s3 import SECRET, client_of, put, storage_at, write_config
from sqlglot import exp
from tables import COLUMNS, ETL, PARTITIONS, ROOT, assert_rows, columns_of, environment, read_table

import etl
from sparkify import redshift
from sparkify.config import read_settings
from sparkify.errors import JobError, UsageError
from sparkify.redshift import LAYOUT, statements, warehouse_of
from sparkify.schema import TABLES

pytestmark = pytest.mark.usefixtures("no_aws_from_outside")

NUMBERS = itertools.count(1)
RUN, OLD_RUN = "20240102T030405Z-0000000a", "20230102T030405Z-0000000a"
ROLE = "arn:aws:iam::123456789012:role/spectrum"
URL = f"redshift://{CLUSTER}/dev"
ROWS = dict.fromkeys(TABLES, 7)
UNTOUCHED = "the tables in Redshift are as they were"


@pytest.fixture(scope="module")
def server():
    with postgres.running() as server:
        server.sql(GETDATE, database="template1")
        yield server


def start(endpoint, server, folder, number, template="template1"):
    """The server with a new database of PostgreSQL, in a dl.cfg; a bucket and a database of Glue by their number."""
    name = f"dev{next(NUMBERS)}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    aws = Redshift(endpoint, server, name)
    aws.bucket, aws.catalog, aws.folder = f"redshift-{number}", f"lake_{number}", folder
    aws.output = f"s3://{aws.bucket}/out"
    aws.s3 = client_of(endpoint)
    write_config(folder, aws.address, f"[REDSHIFT]\nIAM_ROLE = {ROLE}\nDB_USER = loader\n")
    return aws


@pytest.fixture
def aws(endpoint, server, tmp_path, monkeypatch):
    """The server with nothing in it."""
    aws = start(endpoint, server, tmp_path, next(NUMBERS))
    monkeypatch.setattr(redshift, "POLL_SECONDS", 0.05)
    yield aws
    aws.close()


@pytest.fixture(scope="module")
def prepared(endpoint, server, tmp_path_factory):
    """The server with the tables of an older run; those of a newer one are published and registered, not loaded."""
    folder = tmp_path_factory.mktemp("prepared")
    aws = start(endpoint, server, folder, next(NUMBERS))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.chdir(folder)
        patch.setattr(redshift, "POLL_SECONDS", 0.05)
        aws.old = publish_odd(aws, OLDER, OLD_RUN)
        assert etl.main(["--load", URL, "--catalog", aws.catalog, "--output", aws.output, "--no-run"]) == 0
        aws.new = publish_odd(aws)
        assert etl.main(["--catalog", aws.catalog, "--output", aws.output, "--no-run"]) == 0
    aws.close()
    return aws


@pytest.fixture
def ready(endpoint, server, prepared, tmp_path, monkeypatch):
    """The same anew; here nothing is registered again, which takes moto seconds."""
    aws = start(endpoint, server, tmp_path, prepared.bucket.partition("-")[2], prepared.database)
    aws.old, aws.new = prepared.old, prepared.new
    say_published(aws)
    monkeypatch.setattr(redshift, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(etl, "check_catalog", lambda settings: None)
    monkeypatch.setattr(etl, "register_published", lambda settings: None)
    yield aws
    aws.close()


@pytest.fixture
def unchanged(ready):
    """What the test does leaves the older tables."""
    yield ready
    assert_loaded(ready, ready.old)
    assert [run for run, *_ in loads(ready)] == [OLD_RUN]
    assert sql(ready, "SELECT tablename FROM pg_tables WHERE tablename LIKE '%_new'") == []


def say_published(aws, run=RUN, **rows):
    """_published.json, with other numbers of rows."""
    about = {"run_id": run, "rows": {**{name: len(of_table) for name, of_table in ODD.items()}, **rows}}
    put(aws.s3, aws.bucket, {"out/_published.json": json.dumps(about).encode()})


def publish(aws, folder):
    """Put the tables that a run has published in a local folder into the bucket."""
    names = [path for path in folder.rglob("*") if path.is_file()]
    put(aws.s3, aws.bucket, {f"out/{path.relative_to(folder)}": path.read_bytes() for path in names})
    return {name: read_table(folder, name) for name in COLUMNS}


# Rows that no quoting and no width may change; the columns in the contract's order.
ODD = {
    "songplays": [
        (-1, 1541105830796123, 8, "free", "S'1", "A\\", 3, "Zürich, 'CH'\t–\n\\N", 'Mozilla "5.0"' * 400, 2018, 11),
        (9_223_372_036_854_775_807, 0, 9, None, None, None, 4, None, "", 1970, 1),
    ],
    "users": [(8, "Ann'a", "\\.", "F", "paid"), (9, None, None, None, "free")],
    "songs": [("S'1", "ö" * 32_000, "A\\", 0.1, None), ("S2", ";--", "A\\", None, 0)],
    "artists": [("A\\", "%s {} $$", None, -0.0000001, 1e300)],
    "time": [(1541105830796123, 20, 1, 44, 11, 2018, 4), (0, 0, 1, 1, 1, 1970, 4)],
}
IN_ARROW = {"bigint": pyarrow.int64(), "int": pyarrow.int32(), "double": pyarrow.float64(), "string": pyarrow.string()}
OLDER = {**ODD, "users": [(8, "Old", None, None, None), (9, "Older", None, None, None)]}
IN_ARROW["timestamp"] = pyarrow.timestamp("us", "UTC")


def publish_odd(aws, rows=ODD, run=RUN, **said):
    """A lake of some rows, without Spark; said: numbers of rows that _published.json has instead."""
    local = aws.folder / f"lake-{next(NUMBERS)}"
    for name, of_table in rows.items():
        columns = columns_of(name)
        for number, row in enumerate(of_table):
            values = dict(zip([column for column, _ in columns], row))
            folders = [f"{key}={values.pop(key)}" for key in PARTITIONS[name]]
            folder = local.joinpath(name, *[each.replace("=None", "=__HIVE_DEFAULT_PARTITION__") for each in folders])
            folder.mkdir(parents=True, exist_ok=True)
            types = [(column, IN_ARROW[kind]) for column, kind in columns if column in values]
            arrays = [pyarrow.array([values[column]], type) for column, type in types]
            file = folder / f"part-{number}.parquet"
            pyarrow.parquet.write_table(pyarrow.table(arrays, names=[column for column, _ in types]), file)
    about = {"run_id": run, "rows": {**{name: len(of_table) for name, of_table in rows.items()}, **said}}
    (local / "_published.json").write_text(json.dumps(about))
    return publish(aws, local)


def call(aws, capsys, *arguments, url=URL):
    """Call main: (status, standard output, standard error)."""
    aws.asked.clear()
    capsys.readouterr()
    status = etl.main(["--load", url, "--catalog", aws.catalog, "--output", aws.output, *map(str, arguments)])
    stdout, stderr = capsys.readouterr()
    assert "Traceback" not in stderr
    assert SECRET not in stdout + stderr
    return status, stdout, stderr


def loaded(aws, capsys, **options):
    """Load what is published; the last line."""
    status, stdout, stderr = call(aws, capsys, "--no-run", **options)
    assert (status, stdout) == (0, ""), stderr
    return stderr.splitlines()[-1]


def failed(aws, capsys, *arguments):
    """The last line of a load that fails."""
    status, _, stderr = call(aws, capsys, *(arguments or ["--no-run"]))
    assert status == 1, stderr
    line = stderr.splitlines()[-1]
    assert line.startswith(f"etl.py: {URL}: ")
    assert line.endswith(
        f"; to load again: `python etl.py --load {URL} --catalog {aws.catalog} --no-run --output {aws.output}`"
    )
    assert len(line) < 1000
    return line


def assert_loaded(aws, expected, schema="sparkify"):
    found = rows_in(aws.postgres, aws.database, schema)
    for name in COLUMNS:
        assert_rows(found[name], expected[name], name)


def loads(aws, schema="sparkify"):
    """The rows of loads: run and numbers."""
    columns = ", ".join(f'"{table}"' for table in TABLES)
    query = f'SELECT run_id, {columns} FROM "{schema}".loads ORDER BY loaded_at'
    return [tuple(line.split("|")) for line in aws.postgres.sql(query, database=aws.database)]


def sql(aws, *commands):
    return aws.postgres.sql(*commands, database=aws.database)


def settings_of(*arguments):
    return read_settings(["--load", URL, "--catalog", "lake", "--output", "s3://b/out", *arguments])


@pytest.fixture
def target(tmp_path):
    (tmp_path / "dl.cfg").write_text(f"[REDSHIFT]\nIAM_ROLE = {ROLE}\n")
    return warehouse_of(settings_of())


# ---- The SQL -----------------------------------------------------------------------------------------------


def parsed(sql):
    (tree,) = sqlglot.parse(sql, read="redshift")
    return tree


def test_every_statement_is_redshifts(target, caplog):
    for statement in statements(target, RUN, ROWS):
        tree = parsed(statement.sql)
        # The one that sqlglot knows no more of than its first word; the tests' server matches it whole.
        assert isinstance(tree, exp.Command) == (statement.what == "open the catalogue"), statement


def test_it_fits_in_a_batch_and_boto3_takes_it(target):
    made = list(statements(target, RUN, ROWS))
    assert len(made) <= 40
    request = {**target.connection, "Sqls": [statement.sql for statement in made], "ClientToken": f"{RUN}-12345678"}
    shape = boto3.client("redshift-data", "us-east-1").meta.service_model.shape_for("BatchExecuteStatementInput")
    assert ParamValidator().validate(request, shape).generate_report() == ""
    assert sum(len(statement.sql) for statement in made) < 100_000  # bytes that the Data API takes


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_the_contracts(target, table):
    (made,) = [statement.sql for statement in statements(target, RUN, ROWS) if statement.what == f"make {table}"]
    tree = parsed(made)
    columns = {column.name: column for column in tree.find_all(exp.ColumnDef)}
    assert list(columns) == [name for name, _ in columns_of(table)]
    not_null = {name for name, column in columns.items() if column.find(exp.NotNullColumnConstraint)}
    assert not_null == {TABLES[table].key, *TABLES[table].never_null}
    (primary,) = tree.find_all(exp.PrimaryKey)
    assert [column.name for column in primary.expressions] == [TABLES[table].key]
    foreign = {
        key.expressions[0].name: key.find(exp.Table).name.removesuffix("_new") for key in tree.find_all(exp.ForeignKey)
    }
    assert foreign == TABLES[table].references
    widths = [int(width) for width in re.findall(r"VARCHAR\((\d+)\)", made)]
    assert len(widths) == [kind for _, kind in columns_of(table)].count("string")
    assert all(width <= 65_535 for width in widths)


@pytest.mark.parametrize("table", TABLES)
def test_its_layout_names_columns_and_has_its_reason(target, table):
    layout, reason = LAYOUT[table]
    assert re.fullmatch(r'(DISTSTYLE ALL|DISTKEY \("\w+"\)) SORTKEY \("\w+"\)', layout)
    assert set(re.findall(r'"(\w+)"', layout)) <= {name for name, _ in columns_of(table)}
    (comment,) = [made.sql for made in statements(target, RUN, ROWS) if made.what == f"describe {table}"]
    assert f"{TABLES[table].description} {reason}" in comment.replace("''", "'")


def test_tables_come_before_those_that_refer_to_them():
    order = list(LAYOUT)
    assert sorted(order) == sorted(TABLES)
    for table, contract in TABLES.items():
        assert all(order.index(other) < order.index(table) for other in contract.references.values())


def test_another_role_or_catalogue_is_another_external_schema(tmp_path):
    names = set()
    for text in ("", f"IAM_ROLE = {ROLE}\n", f"IAM_ROLE = {ROLE}2\n", "[CATALOG]\nID = 123456789012\n"):
        (tmp_path / "dl.cfg").write_text(f"[REDSHIFT]\n{text}")
        names.add(warehouse_of(settings_of()).source)
    assert len(names) == 4


# ---- A load ------------------------------------------------------------------------------------------------


def test_odd_values_arrive_and_a_load_can_be_repeated(ready, capsys):
    line = f"run {RUN} is in {URL}, schema sparkify: songplays 2, users 2, songs 2, artists 1, time 2"
    assert loaded(ready, capsys) == line
    (first,) = ready.parameters("BatchExecuteStatement")
    assert (first["ClusterIdentifier"], first["Database"], first["DbUser"]) == (CLUSTER, "dev", "loader")
    assert "WorkgroupName" not in first
    assert first["ClientToken"].startswith(RUN)
    assert RUN in first["StatementName"]
    assert_loaded(ready, ready.new)
    left = sql(ready, "SELECT tablename FROM pg_tables WHERE schemaname = 'sparkify' ORDER BY 1")
    assert left == sorted([*TABLES, "loads"])
    sql(ready, "DELETE FROM sparkify.songplays")
    loaded(ready, capsys)
    (second,) = ready.parameters("BatchExecuteStatement")
    assert first["ClientToken"] != second["ClientToken"]
    assert_loaded(ready, ready.new)
    numbers = ("2", "2", "2", "1", "2")
    assert loads(ready) == [(OLD_RUN, *numbers), (RUN, *numbers), (RUN, *numbers)]


def test_two_loads_at_once_leave_one_whole(ready):
    ready.instead['COMMENT ON TABLE "sparkify"."users_new"'] = "SELECT pg_sleep(0.5)"
    settings = read_settings(["--load", URL, "--catalog", ready.catalog, "--output", ready.output])
    done = []

    def load():
        try:
            redshift.load_registered(settings, redshift.warehouse_of(settings))
            done.append("loaded")
        except JobError as error:
            done.append(str(error))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert "loaded" in done
    assert all(said == "loaded" or UNTOUCHED in said for said in done)
    assert_loaded(ready, ready.new)
    assert len(loads(ready)) == 1 + done.count("loaded")


def test_a_table_without_rows_is_loaded(ready, capsys):
    ready.instead['INSERT INTO "sparkify"."songplays_new"'] = "SELECT 1"
    say_published(ready, songplays=0)
    loaded(ready, capsys)
    assert_loaded(ready, {**ready.new, "songplays": []})


def test_a_workgroup_a_secret_and_another_schema(ready, capsys):
    secret = "arn:ready:secretsmanager:us-east-1:123456789012:secret:redshift"
    write_config(ready.folder, ready.address, f"[REDSHIFT]\nSECRET_ARN = {secret}\nSCHEMA = music\n")
    loaded(ready, capsys, url=f"redshift-serverless://{WORKGROUP}/dev")
    assert_loaded(ready, ready.new, "music")
    (asked,) = ready.parameters("BatchExecuteStatement")
    assert (asked["WorkgroupName"], asked["SecretArn"]) == (WORKGROUP, secret)
    assert not {"ClusterIdentifier", "DbUser"} & set(asked)
    assert any("IAM_ROLE default" in statement for statement in asked["Sqls"])


def test_progress_is_said(ready, capsys):
    ready.instead['COMMENT ON TABLE "sparkify"."users_new"'] = "SELECT pg_sleep(1.5)"
    status, _, stderr = call(ready, capsys, "--no-run")
    assert status == 0, stderr
    assert re.search(r"^ +\d s  10 of 31: describe users$", stderr, re.MULTILINE), stderr


def test_it_follows_a_job_on_emr(ready, capsys, monkeypatch):
    monkeypatch.setattr(etl, "run_on_emr", lambda settings: None)
    monkeypatch.setattr(etl, "conclude", lambda report, settings: None)
    assert call(ready, capsys, "--emr")[0] == 0
    assert_loaded(ready, ready.new)


# ---- What goes wrong ---------------------------------------------------------------------------------------


def miscount(ready, capsys, table):
    """A load of a table that hasn't got the rows that were published fails in one line."""
    say_published(ready, **{table: 12_345})
    line = failed(ready, capsys)
    assert f"can't count {table} (SELECT 1 / CASE WHEN count(*) = 12345 THEN 1" in line
    assert "division by zero" in line
    assert f"{table} hasn't got the 12,345 rows that were published" in line
    assert UNTOUCHED in line


@pytest.mark.usefixtures("unchanged")
def test_other_rows_than_were_published(ready, capsys):
    miscount(ready, capsys, "songplays")


@pytest.mark.usefixtures("unchanged")
def test_a_view_of_somebodys_stops_it(ready, capsys):
    sql(ready, "CREATE VIEW public.mine AS SELECT * FROM sparkify.users")
    line = failed(ready, capsys)
    assert "can't drop the old tables (DROP TABLE IF EXISTS" in line
    assert "depend on" in line
    assert "drop what uses the table first" in line


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("statement", "reason", "hint"),
    [
        ("CREATE EXTERNAL SCHEMA", "permission denied for database dev", "let the database's owner GRANT"),
        (
            'INSERT INTO "sparkify"."songs_new"',
            "Spectrum Scan Error\n  ---------\n  error:  S3ServiceException: Access Denied\n  code: 15001",
            "needs s3:GetObject, s3:ListBucket and glue:Get*",
        ),
        (
            'INSERT INTO "sparkify"."artists_new"',
            "value too long for type character varying(256)",
            "`--dry-run` prints",
        ),
        ('ALTER TABLE "sparkify"."time_new"', "disk full", UNTOUCHED),
    ],
)
def test_redshift_refuses_a_statement(ready, capsys, statement, reason, hint):
    quoted = reason.replace("'", "''").replace("\n", "' || chr(10) || '")
    ready.instead[statement] = f"DO $$ BEGIN RAISE EXCEPTION '%', '{quoted}'; END $$"
    line = failed(ready, capsys)
    assert f"({statement}" in line
    assert " ".join(reason.replace("---------", "").split()) in line
    assert hint in line
    assert UNTOUCHED in line


@pytest.mark.usefixtures("unchanged")
def test_a_load_that_is_cancelled(ready, capsys, monkeypatch):
    ready.instead["DROP TABLE"] = "SELECT pg_sleep(60)"
    polls = iter(range(100))

    def cancel_at_the_third(_):
        time.sleep(0.1)
        if next(polls) == 3:
            ready.end({"Id": next(reversed(ready.batches))})

    monkeypatch.setattr(redshift, "time", SimpleNamespace(sleep=cancel_at_the_third))
    line = failed(ready, capsys)
    assert "it was ABORTED, and Redshift gives no reason" in line
    assert UNTOUCHED in line


@pytest.mark.usefixtures("unchanged")
def test_what_aws_refuses_before_anything_begins(ready, capsys):
    denied = {"__type": "AccessDeniedException", "Message": "not for you"}
    ready.answers["BatchExecuteStatement"] = lambda _: (400, denied)
    line = failed(ready, capsys)
    assert "AccessDeniedException: not for you" in line
    assert "need the permission redshift-data:* and" in line
    assert UNTOUCHED in line


def test_there_is_no_such_cluster(ready, capsys):
    status, _, stderr = call(ready, capsys, "--no-run", url="redshift://other/dev")
    assert status == 1
    assert "redshift://other/dev: ValidationException: Redshift endpoint doesn't exist in this region" in stderr
    assert UNTOUCHED in stderr


def test_tables_that_no_load_has_made_stay(ready, capsys):
    sql(ready, "DROP TABLE sparkify.loads")
    line = failed(ready, capsys)
    assert "the schema sparkify has tables of these names that no load has made: choose another SCHEMA" in line
    assert_loaded(ready, ready.old)


def test_who_may_not_follow_is_told_how_to_look(ready, capsys):
    ready.answers["DescribeStatement"] = lambda _: (400, {"__type": "AccessDeniedException", "Message": "no"})
    status, _, stderr = call(ready, capsys, "--no-run")
    assert status == 1
    line = stderr.splitlines()[-1]
    (id,) = ready.batches
    assert line.startswith(f"etl.py: {URL}: AccessDeniedException: no: ")
    assert f"the load goes on; to look at it: aws redshift-data describe-statement --region us-east-1 --id {id}" in line
    assert UNTOUCHED not in line
    ready.batches[id].thread.join(10)
    assert_loaded(ready, ready.new)


def test_ctrl_c_ends_the_following_alone(ready):
    ready.instead['COMMENT ON TABLE "sparkify"."users_new"'] = "SELECT pg_sleep(3)"
    words = environment(AWS_EC2_METADATA_DISABLED="true")
    arguments = ["--load", URL, "--catalog", ready.catalog, "--no-run", "--output", ready.output]
    process = subprocess.Popen(
        [sys.executable, str(ETL), *arguments], cwd=ready.folder, stderr=subprocess.PIPE, text=True, env=words
    )
    for line in process.stderr:
        if " of 31: " in line:
            os.kill(process.pid, signal.SIGINT)
            break
    rest = process.stderr.read().splitlines()
    assert process.wait(30) == 1
    (id,) = ready.batches
    word = f"--region us-east-1 --id {id}"
    assert rest[-1] == (
        "etl.py: stopped watching; the load goes on; to look at it: aws redshift-data "
        f"describe-statement {word}; to end it: aws redshift-data cancel-statement {word}"
    )
    ready.batches[id].thread.join(10)
    assert_loaded(ready, ready.new)


def test_a_run_that_publishes_meanwhile_is_said(ready, capsys):

    def begin(asked):
        say_published(ready, "20250102T030405Z-0000000c")
        return ready.begin(asked)

    ready.answers["BatchExecuteStatement"] = begin
    status, _, stderr = call(ready, capsys, "--no-run")
    assert status == 1
    assert "the tables are loaded, but another run has published others meanwhile; to load again: `python" in stderr


def test_what_isnt_registered_isnt_loaded(aws, capsys):
    publish_odd(aws)
    aws.answers["CreateTable"] = lambda _: (400, {"__type": "AccessDeniedException", "Message": "no"})
    status, _, stderr = call(aws, capsys, "--no-run")
    assert status == 1
    assert "the tables are not registered" in stderr
    assert aws.parameters("BatchExecuteStatement") == []


@pytest.mark.parametrize(
    ("url", "config", "arguments", "said"),
    [
        (URL, "", ["--no-run"], "add --catalog DATABASE"),
        ("redshift://music", "", [], "give redshift://CLUSTER/DATABASE or redshift-serverless://WORKGROUP/DATABASE"),
        ("redshift://me@music/dev", "", [], "the user is in dl.cfg"),
        ("redshift://music:5439/dev", "", [], "give redshift://CLUSTER/DATABASE"),
        (URL, "[REDSHIFT]\nDB_USER = a\nSECRET_ARN = b", ["--catalog", "c"], "both DB_USER and SECRET_ARN"),
        ("redshift-serverless://w/d", "[REDSHIFT]\nDB_USER = a", ["--catalog", "c"], "a workgroup takes no DB_USER"),
        (URL, "[REDSHIFT]\nSCHEMA = My-Schema", ["--catalog", "c"], "SCHEMA in dl.cfg's [REDSHIFT] isn't a name"),
        (URL, "[REDSHIFT]\nIAM_ROLE = spectrum", ["--catalog", "c"], "is no role: give arn:aws:iam::ACCOUNT:role/NAME"),
        (URL, "[CATALOG]\nID = 1'; DROP", ["--catalog", "c"], "ID in dl.cfg's [CATALOG] is no catalogue's"),
        (URL, "", ["--catalog", "c", "--output", "lake"], "name an --output that begins with s3://"),
        (URL, "", ["--catalog", "c", "--dry-run", "--report", "r.json"], "--report needs a run"),
        (URL, "", ["--catalog", "c", "--dry-run", "--emr"], "--dry-run goes only with"),
        ("postgresql://h/d", "", ["--dry-run"], "--dry-run goes only with"),
        (URL, "", ["--emr-stop", "j-1"], "--catalog and --load need a run"),
    ],
)
def test_one_line_for_what_cant_be_loaded(tmp_path, capsys, url, config, arguments, said):
    (tmp_path / "dl.cfg").write_text(config)
    output = [] if "--output" in arguments else ["--output", "s3://b/out"]
    assert etl.main(["--load", url, *output, *arguments]) == 2
    stdout, stderr = capsys.readouterr()
    (line,) = stderr.splitlines()
    assert line.startswith("etl.py: ")
    assert said in line
    assert stdout == ""


def test_what_is_published_by_no_run_of_ours_stands_in_no_sql(ready):
    say_published(ready, "'; DROP TABLE users; --")
    with pytest.raises(UsageError, match="no run has published"):
        redshift.published(storage_at(ready.address, ready.output))


# ---- The SQL alone -----------------------------------------------------------------------------------------


def test_a_dry_run_prints_what_would_be_sent_and_changes_nothing(ready, capsys):
    status, printed, stderr = call(ready, capsys, "--dry-run")
    assert (status, stderr) == (0, "")
    assert ready.asked == []
    lines = printed.splitlines()
    assert lines[:2] == [f"-- The tables of run {RUN}, into {URL}, in one transaction", "BEGIN;"]
    assert lines[-1] == "COMMIT;"
    trees = sqlglot.parse(printed, read="redshift")
    loaded(ready, capsys)
    (asked,) = ready.parameters("BatchExecuteStatement")
    assert list(trees[1:-1]) == [parsed(sql) for sql in asked["Sqls"]]
    assert [part.split("\n", 1)[1] for part in printed.split(";\n-- ")[1:]][0] == asked["Sqls"][0]


def test_a_dry_run_of_what_isnt_published(aws, capsys):
    aws.s3.create_bucket(Bucket=aws.bucket)
    status, printed, stderr = call(aws, capsys, "--dry-run")
    assert (status, printed) == (2, "")
    assert "no run has published its tables in" in stderr


# ---- The README --------------------------------------------------------------------------------------------


def test_the_lines_of_the_readme_are_taken(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("### Redshift\n", 1)[1]
    config, load, *asking = re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1].splitlines()
    subprocess.run(["bash", "-c", config], cwd=tmp_path, check=True)
    target = warehouse_of(read_settings(shlex.split(load)[2:]))
    assert target.connection == {"Database": "dev", "DbUser": "analyst", "ClusterIdentifier": "my-cluster"}
    assert ROLE in target.external
    model = boto3.client("redshift-data", "us-east-1").meta.service_model
    assert len(asking) == 2
    for line in asking:
        words = shlex.split(line)
        options = {word[2:].title().replace("-", "") for word in words if word.startswith("--")} - {"Query", "Output"}
        assert options <= set(model.operation_model(words[2].title().replace("-", "")).input_shape.members)


def test_the_permissions_of_the_readme_are_the_calls(ready, capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    loaded(ready, capsys)
    assert {operation for operation, _ in ready.asked} == {"BatchExecuteStatement", "DescribeStatement"}
    assert "redshift-data:BatchExecuteStatement and DescribeStatement" in readme
