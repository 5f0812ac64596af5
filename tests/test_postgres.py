"""The five tables in a real PostgreSQL: what is there after a load, at each instant of one, and when it can't be.

The server's zone is Kolkata's: nothing may depend on it.
"""

import contextlib
import csv
import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path

import postgres
import pytest
import questions
from dirty import event, song, write_input
from postgres import ADMIN, PASSWORD
from s3 import free_port
from tables import COLUMNS, assert_rows, columns_of, environment, read_table, run_etl

from sparkify import jdbc
from sparkify import postgres as room
from sparkify.config import Settings
from sparkify.errors import JobError, UsageError
from sparkify.schema import TABLES

# In PostgreSQL's own words.
TYPES = {"bigint": "bigint", "int": "integer", "double": "double precision", "string": "text"}
TYPES["timestamp"] = "timestamp with time zone"


@pytest.fixture(scope="module")
def server():
    with postgres.running("timezone=Asia/Kolkata") as server:
        yield server


@pytest.fixture
def database(server, request):
    """A new database of the server; gives its name."""
    name = "d" + re.sub(r"\W", "", request.node.name)[-40:].lower() + str(time.monotonic_ns())
    server.sql(f"CREATE DATABASE {name}")
    return name


@pytest.fixture
def loaded(server, database, run_here, monkeypatch):
    """Load an output into the database, in this process; gives (status, last line)."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)

    def call(output, url=None):
        return run_here("--no-run", "--output", output, "--load", url or server.url(database))

    return call


@pytest.fixture(scope="module")
def lakes(first_tables, sample_output, inputs):
    """[(output, its rows)], two of them, whose five tables differ."""
    sample = sample_output / "output"
    return [(first_tables, inputs[0][1]), (sample, {name: read_table(sample, name) for name in COLUMNS})]


def rows_in(server, database, name, schema="sparkify"):
    """The rows of a table, as read_table gives those of Parquet."""
    at = "extract(epoch FROM start_time) * 1000000"
    columns = [f"({at})::bigint" if kind == "timestamp" else f'"{column}"' for column, kind in columns_of(name)]
    found = server.sql(
        f"COPY (SELECT {', '.join(columns)} FROM {schema}.{name}) TO STDOUT (FORMAT csv)", database=database
    )
    return sorted(map(tuple, csv.reader(found)))


def as_text(rows, name):
    """Rows of read_table as PostgreSQL's CSV has them."""
    kinds = [kind for _, kind in columns_of(name)]

    def text(value, kind):
        if value is None:
            return ""
        if kind == "timestamp":
            return str(oracle_micros(value))
        return repr(value).removesuffix(".0") if kind == "double" else str(value)

    return sorted(tuple(map(text, row, kinds)) for row in rows)


def oracle_micros(moment):
    """A naive datetime in UTC as microseconds since the epoch."""
    return round((moment - moment.__class__(1970, 1, 1)).total_seconds() * 1_000_000)


def assert_loaded(server, database, expected, schema="sparkify"):
    """The five tables hold exactly these rows (as of oracle.five_tables)."""
    for name in COLUMNS:
        assert_rows(rows_in(server, database, name, schema), as_text(expected[name], name), name)


def assert_nothing_left(server, database):
    """No schema of a load is left."""
    left = server.sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE '%load%'", database=database)
    assert left == []


# ---- What is there -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(server, sample_output):
    """The name of a database with the tables of the sample, loaded by Java in New York's zone, and what was said."""
    server.sql("CREATE DATABASE sample")
    words = environment(PGPASSWORD=PASSWORD, TZ="America/New_York", PGPORT=str(server.port))
    arguments = ["--no-run", "--load", f"postgresql://{ADMIN}@127.0.0.1/sample", "--output", "output"]
    process = run_etl(*arguments, cwd=sample_output, env=words)
    assert process.returncode == 0, process.stderr
    return "sample"


def test_each_row_of_the_sample_is_there(server, sample, sample_output):
    expected = {name: read_table(sample_output / "output", name) for name in COLUMNS}
    assert_loaded(server, sample, expected)
    assert_nothing_left(server, sample)


def test_the_columns_have_types_and_keys_and_say_what_they_are(server, sample):
    where = "table_schema = 'sparkify' AND table_name <> 'loads'"
    found = server.sql(
        f"SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns WHERE {where} "
        "ORDER BY table_name, ordinal_position",
        database=sample,
    )
    columns = [(name, column, TYPES[kind]) for name in sorted(COLUMNS) for column, kind in columns_of(name)]
    assert [tuple(line.split("|")[:3]) for line in found] == columns
    nullable = {tuple(line.split("|")[:2]) for line in found if line.endswith("YES")}
    assert nullable == {
        *(("songplays", column) for column in ("level", "song_id", "artist_id", "location", "user_agent")),
        *(("users", column) for column in ("first_name", "last_name", "gender", "level")),
        *(("songs", column) for column in ("duration", "year")),
        *(("artists", column) for column in ("name", "location", "latitude", "longitude")),
    }
    keys = server.sql(
        "SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype IN ('p', 'f') "
        "AND connamespace = 'sparkify'::regnamespace AND conrelid <> 'sparkify.loads'::regclass",
        database=sample,
    )
    primary = [f"sparkify.{name}|PRIMARY KEY ({contract.key})" for name, contract in TABLES.items()]
    foreign = [
        f"sparkify.{name}|FOREIGN KEY ({column}) REFERENCES sparkify.{other}({TABLES[other].key})"
        for name, contract in TABLES.items()
        for column, other in contract.references.items()
    ]
    assert sorted(key.replace('"', "") for key in keys) == sorted([*primary, *foreign])
    indexes = server.sql("SELECT indexdef FROM pg_indexes WHERE tablename = 'songplays'", database=sample)
    indexed = {index.rpartition("(")[2].rstrip(")") for index in indexes}
    assert indexed == {"songplay_id", "start_time", "user_id", "song_id", "artist_id"}


def test_tables_and_columns_have_comments(server, sample):
    for name, contract in TABLES.items():
        place = f"'sparkify.{name}'::regclass"
        assert server.sql(f"SELECT obj_description({place})", database=sample) == [contract.description]
        numbers = range(1, len(contract.columns) + 1)
        said = server.sql(*[f"SELECT col_description({place}, {number})" for number in numbers], database=sample)
        assert said == [description for _, description in contract.columns.values()]


def test_a_moment_is_the_same_in_every_zone(server, sample):
    """As the server's is Kolkata's, and Java's was New York's."""
    first = "SELECT min(start_time) AT TIME ZONE 'UTC', extract(epoch FROM min(start_time)) FROM sparkify.songplays"
    expected = server.sql(first, database=sample)
    (epoch,) = expected[0].split("|")[1:]
    for zone in ("UTC", "America/New_York", "Asia/Kathmandu"):
        assert server.sql(first, database=sample, PGTZ=zone) == expected
    assert expected[0].startswith("2018-11-01 ")
    wrong = (
        "SELECT count(*) FROM sparkify.time WHERE extract(hour FROM start_time AT TIME ZONE 'UTC') <> hour "
        "OR extract(isodow FROM start_time AT TIME ZONE 'UTC') <> weekday"
    )
    assert server.sql(wrong, database=sample, PGTZ="Asia/Kathmandu") == ["0"]
    assert float(epoch) > 1541030400


# The others say DOUBLE, which PostgreSQL calls DOUBLE PRECISION.
UNCHANGED = ["active_users", "before_upgrade", "devices", "free_and_paid_by_day", "going_quiet"]
UNCHANGED += ["listeners_by_location", "plays_by_decade", "session_lengths", "sessions_of_a_user", "top_artists"]
UNCHANGED += ["top_song_by_location", "top_songs"]


def test_the_questions_that_run_here_are_all_but_those_that_say_double():
    files = sorted(questions.QUESTIONS.glob("*.sql"))
    assert [file.stem for file in files if "AS DOUBLE" not in file.read_text(encoding="utf-8")] == UNCHANGED


@pytest.mark.parametrize("name", UNCHANGED)
def test_a_question_has_the_expected_answer(server, sample, name):
    words = {"PGOPTIONS": "-c search_path=sparkify", "database": sample}
    sql = (questions.QUESTIONS / f"{name}.sql").read_text(encoding="utf-8")
    process = server.psql("\\pset format csv", "\\pset tuples_only off", sql, **words)
    assert process.stderr == ""
    expected = (questions.QUESTIONS / f"{name}.csv").read_text(encoding="utf-8")
    assert process.stdout.replace("+00", "") == expected  # a moment has its zone there


# ---- One load after another --------------------------------------------------------------------------------


def runs_in(server, database, schema="sparkify"):
    """The runs that were loaded, with the plays of each."""
    return server.sql(f"SELECT run_id, songplays FROM {schema}.loads ORDER BY load_id", database=database)


def run_of(output):
    return json.loads((Path(output) / "_published.json").read_text())["run_id"]


def test_the_next_run_replaces_the_tables_and_the_same_one_does_nothing(server, database, loaded, lakes):
    (first, old), (second, new) = lakes
    status, said = loaded(first)
    assert (status, said.partition("schema")[0]) == (0, f"run {run_of(first)} is in {server.url(database)}, ")
    assert said.endswith(" schema sparkify: songplays 8, users 4, songs 3, artists 3, time 8")
    assert_loaded(server, database, old)
    moment = server.sql("SELECT max(loaded_at) FROM sparkify.loads", database=database)
    status, said = loaded(first)
    assert (status, said.endswith("schema sparkify already: nothing was loaded")) == (0, True)
    assert server.sql("SELECT max(loaded_at) FROM sparkify.loads", database=database) == moment
    assert loaded(second)[0] == 0
    assert_loaded(server, database, new)
    assert runs_in(server, database) == [f"{run_of(first)}|8", f"{run_of(second)}|6800"]
    server.sql("DROP TABLE sparkify.songplays", database=database)
    assert loaded(second)[0] == 0
    assert_loaded(server, database, new)
    assert_nothing_left(server, database)


def test_grants_are_given_again_and_the_schema_has_the_name_that_was_chosen(server, database, loaded, lakes, tmp_path):
    (tmp_path / "dl.cfg").write_text('[POSTGRES]\nSCHEMA = "Day\'s ""plays""; x"\n'.replace('""', "%"))
    schema = '"Day\'s %plays%; x"'
    assert loaded(lakes[0][0])[0] == 0
    server.sql(f'CREATE ROLE "r {database}"', f"CREATE ROLE {database}")
    server.sql(
        f'GRANT SELECT ON {schema}.songplays TO "r {database}" WITH GRANT OPTION',
        f"GRANT SELECT (user_id, level), UPDATE (level) ON {schema}.users TO {database}",
        f"GRANT SELECT, INSERT ON {schema}.time TO PUBLIC",
        database=database,
    )
    rights = (
        "SELECT relname, relacl FROM pg_class WHERE relacl IS NOT NULL AND relnamespace > 16000 UNION ALL SELECT "
        "attname, attacl FROM pg_attribute WHERE attacl IS NOT NULL AND attrelid > 16000 ORDER BY 1"
    )
    before = server.sql(rights, database=database)
    assert len(before) == 4
    assert loaded(lakes[1][0])[0] == 0
    assert_loaded(server, database, lakes[1][1], schema)
    assert server.sql(rights, database=database) == before


DEPENDENTS = [  # what is made, what is said of it, how it is dropped
    ("CREATE VIEW best AS TABLE sparkify.songplays", "view best depends on sparkify.songplays", "VIEW best"),
    (
        "CREATE MATERIALIZED VIEW hours AS SELECT hour FROM sparkify.time",
        'materialized view hours depends on sparkify."time"',
        "MATERIALIZED VIEW hours",
    ),
    (
        "CREATE TABLE notes (id bigint REFERENCES sparkify.users)",
        "constraint notes_id_fkey on table notes depends on sparkify.users",
        "TABLE notes",
    ),
    (
        "CREATE POLICY mine ON sparkify.users USING (true)",
        "policy mine on table sparkify.users depends on sparkify.users",
        "POLICY mine ON sparkify.users",
    ),
    ("CREATE TABLE guests () INHERITS (sparkify.users)", "table guests depends on sparkify.users", "TABLE guests"),
]


def test_what_depends_on_an_old_table_stops_the_load_by_its_name(server, database, loaded, lakes):
    assert loaded(lakes[0][0])[0] == 0
    advice = "drop it, and make it again after the load; the database is as it was"
    for made, said, dropped in DEPENDENTS:
        server.sql(made, database=database)
        assert loaded(lakes[1][0]) == (1, f"etl.py: {server.url(database)}: {said}: {advice}")
        server.sql(f"DROP {dropped}", database=database)
    assert_loaded(server, database, lakes[0][1])
    assert_nothing_left(server, database)


def test_triggers_of_ones_own_go_with_the_old_tables(server, database, loaded, lakes):
    assert loaded(lakes[0][0])[0] == 0
    server.sql(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER a BEFORE UPDATE OF level ON sparkify.users FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TRIGGER b BEFORE UPDATE ON sparkify.users FOR EACH ROW WHEN (NEW.level = 'x') EXECUTE FUNCTION f()",
        database=database,
    )
    assert loaded(lakes[1][0])[0] == 0
    assert_loaded(server, database, lakes[1][1])


def test_a_limit_that_a_database_sets_for_its_analysts_stops_no_load(server, database, loaded, lakes):
    server.sql(f"ALTER DATABASE {database} SET idle_session_timeout = '500ms'")
    assert loaded(lakes[1][0])[0] == 0
    assert_loaded(server, database, lakes[1][1])


def test_tables_of_others_are_never_touched(server, database, loaded, lakes):
    server.sql("CREATE SCHEMA sparkify CREATE TABLE users (id int)", database=database)
    status, line = loaded(lakes[0][0])
    assert status == 1
    assert "sparkify.users is there, and no load has made it: choose another SCHEMA" in line
    assert server.sql("SELECT count(*) FROM sparkify.users", database=database) == ["0"]


# ---- Two at once, and readers ------------------------------------------------------------------------------


@contextlib.contextmanager
def session_that(server, database, *statements):
    """A session of the server that has run statements, and stays open until the block ends."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    words = {**os.environ, "PGPASSWORD": PASSWORD}
    with subprocess.Popen(server.command(ADMIN, database), env=words, **options) as process:
        process.stdin.write("".join(f"{statement};\n" for statement in (*statements, "SELECT 'done'")))
        process.stdin.flush()
        assert any(line == "done\n" for line in process.stdout)
        yield process
        process.stdin.close()


LOCKED = "SELECT pg_advisory_lock(hashtext('sparkify-etl'), hashtext('sparkify'))"


def test_beside_another_load_one_waits_and_is_refused_in_the_end(server, database, loaded, lakes, monkeypatch):
    monkeypatch.setattr(room, "LOCK_WAIT", 1)
    with session_that(server, database, LOCKED):
        status, line = loaded(lakes[0][0])
        assert status == 1
        assert "another load into schema sparkify is under way: wait until it ends" in line
    monkeypatch.setattr(room, "LOCK_WAIT", 60)
    with session_that(server, database, LOCKED) as other:
        threading.Timer(2, other.stdin.close).start()
        assert loaded(lakes[0][0])[0] == 0
    assert_loaded(server, database, lakes[0][1])


# ---- What can't be -----------------------------------------------------------------------------------------


def test_refusals_are_one_line(server, database, loaded, lakes, monkeypatch):
    lake = lakes[0][0]

    def refusal(url):
        status, line = loaded(lake, url=url)
        assert status == 2
        assert PASSWORD not in line
        return line

    line = refusal(f"postgresql://{ADMIN}@127.0.0.1:{free_port()}/{database}")
    assert "refused" in line
    assert line.endswith("start that server, or correct host and port")
    assert "correct host and port" in refusal(f"postgresql://{ADMIN}@no-such-host.invalid/{database}")
    assert refusal(server.url("nowhere")).endswith(
        'database "nowhere" does not exist: make it, as with createdb, or name another'
    )
    assert "does not support SSL" in refusal(f"{server.url(database)}?sslmode=require")
    server.sql(f"CREATE ROLE u{database} LOGIN PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
    line = refusal(server.url(database, f"u{database}"))
    right = "let its owner GRANT that right, or name another SCHEMA in dl.cfg"
    assert line.endswith(f": permission denied for database {database}: {right}")
    server.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    assert refusal(server.url(database)).endswith("name the server that can be written to")
    server.sql(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    monkeypatch.setenv("PGPASSWORD", "wrong")
    wrong = refusal(server.url(database))
    assert "password authentication failed" in wrong
    assert wrong.endswith("correct the password: PASSWORD in dl.cfg, else PGPASSWORD, else ~/.pgpass")
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGPASSFILE", "/nowhere")
    assert "~/.pgpass" in refusal(server.url(database))


def test_a_nul_becomes_another_character_and_is_counted(server, database, loaded, run_here, tmp_path):
    songs = [song(song_id="S1", title="a\0b\0"), song(song_id="S2", title="\ufffd")]
    source = write_input(tmp_path / "in", songs, [event(location="\0"), event(location="x", itemInSession=6)])
    assert run_here("--input", source, "--output", tmp_path / "lake")[0] == 0
    status, line = loaded(tmp_path / "lake")
    assert status == 0
    assert line.endswith("; in 2 rows a NUL became U+FFFD")
    assert server.sql("SELECT title FROM sparkify.songs ORDER BY song_id", database=database) == [
        "a\ufffdb\ufffd",
        "\ufffd",
    ]
    assert server.sql("SELECT location FROM sparkify.songplays ORDER BY 1", database=database) == ["x", "\ufffd"]


def test_another_number_of_rows_is_found(server, database, loaded, lake):
    about = json.loads((lake / "lake/_published.json").read_text())
    about["rows"]["users"] += 1
    (lake / "lake/_published.json").write_text(json.dumps(about))
    status, line = loaded(lake / "lake")
    assert status == 1
    assert "4 of 5 rows arrived in users: load it again; the database is as it was" in line
    assert server.sql("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'sparkify%'", database=database) == ["0"]


@pytest.mark.parametrize(
    ("name", "said"), [("_published.json", "no run has published"), ("_journal.json", "--recover")]
)
def test_what_is_no_whole_run_is_not_loaded(loaded, lake, name, said):
    if name == "_journal.json":
        (lake / "lake" / name).write_text('{"run_id": "20260101T000000Z-00000000", "staged": {}}')
    else:
        (lake / "lake" / name).unlink()
    status, line = loaded(lake / "lake")
    assert status == 2
    assert said in line


# ---- A run that loads --------------------------------------------------------------------------------------


def test_a_run_loads_what_it_has_published(server, database, run_here, inputs, tmp_path, monkeypatch):
    source, expected = inputs[0]
    (tmp_path / "dl.cfg").write_text(f'[POSTGRES]\nURL = {server.url(database)}\nPASSWORD = "{PASSWORD}"\n')
    arguments = ["--input", source, "--output", tmp_path / "lake", "--report", tmp_path / "report.json"]
    assert run_here(*arguments)[0] == 0
    assert_loaded(server, database, expected)
    text = (tmp_path / "report.json").read_text()
    assert PASSWORD not in text
    report = json.loads(text)
    assert {"load tables", "load keys", "swap"} <= set(report["steps"])
    about = {"into": server.url(database), "schema": "sparkify", "run_id": report["run_id"]}
    rows = {name: table["rows"] for name, table in report["tables"].items()}
    assert report["load"] == {**about, "rows": rows, "loaded": True, "replaced": 0}
    assert report["seconds"] > sum(report["steps"][step] for step in ("load tables", "load keys", "swap"))
    plays = report["tables"]["songplays"]["rows"]
    assert runs_in(server, database) == [f"{run_of(tmp_path / 'lake')}|{plays}"]


def test_a_load_that_fails_leaves_the_tables_published(
    server, database, run_here, inputs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)

    def refuse(*_):
        raise JobError("the disk is full")

    monkeypatch.setattr(room, "_write", refuse)
    arguments = ["--input", inputs[0][0], "--output", tmp_path / "lake", "--report", tmp_path / "report.json"]
    status, line = run_here(*arguments, "--load", server.url(database))
    assert status == 1
    again = "the tables are published; the database is as it was: --load … --no-run loads them"
    assert line == f"etl.py: the disk is full; {again}"
    report = json.loads((tmp_path / "report.json").read_text())
    assert "load" not in report
    assert report["run_id"] == run_of(tmp_path / "lake")
    assert_nothing_left(server, database)


def test_what_can_be_told_before_is_told_before_anything_is_made(
    server, database, run_here, inputs, tmp_path, monkeypatch
):
    monkeypatch.setenv("PGPASSWORD", "wrong")
    status, _ = run_here("--input", inputs[0][0], "--output", tmp_path / "lake", "--load", server.url(database))
    assert status == 2
    assert not (tmp_path / "lake").exists()


# ---- The URL and the password ------------------------------------------------------------------------------


@pytest.fixture
def target(monkeypatch):
    """What an URL and dl.cfg's [POSTGRES] mean, without anything of the machine's."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PGPASSFILE", "/nowhere")
    return lambda url, **postgres: jdbc.target_of(Settings("in", "out", load=url, postgres=postgres))


def test_an_url_has_a_user_a_host_a_port_and_a_database(target, monkeypatch):
    found = target("postgresql://ann%40home@db.example:5433/the%20lake?sslmode=require", schema="s")
    assert found.url == "jdbc:postgresql://db.example:5433/the%20lake"
    assert found.place == "postgresql://ann%40home@db.example:5433/the%20lake"
    assert (found.properties["user"], found.properties["sslmode"], found.schema) == ("ann@home", "require", "s")
    assert target("postgres://ann@[::1]/lake").url == "jdbc:postgresql://[::1]:5432/lake"
    monkeypatch.setenv("PGUSER", "bob")
    monkeypatch.setenv("PGPORT", "5434")
    assert target("postgresql:///").place == "postgresql://bob@localhost:5434/bob"


def test_the_password_is_dl_cfgs_or_pgpassword_or_that_of_pgpass(target, monkeypatch, tmp_path, capsys):
    file, url = tmp_path / "pgpass", "postgresql://a:b@h/d".replace(":b", "")
    lines = ["# h:5432:d:a:comment", "h:5433:d:a:port", r"h\\x:*:*:*:host", r"*:*:d:a:of\:the\\file", "h:*:*:*:late"]
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert target(url).properties["password"] == r"of:the\file"
    assert "password" not in target("postgresql://a@other/e").properties
    monkeypatch.setenv("PGPASSWORD", "environment")
    assert target(url).properties["password"] == "environment"
    found = target(url, password="dl.cfg")
    assert found.properties["password"] == "dl.cfg"
    assert "dl.cfg" not in repr(found) + found.url + found.place
    monkeypatch.delenv("PGPASSWORD")
    file.chmod(0o640)
    assert "password" not in target(url).properties
    assert capsys.readouterr().err == f"etl.py: warning: {file} isn't read, as others may read it: chmod 600 {file}\n"


@pytest.mark.parametrize(
    ("url", "postgres", "said"),
    [
        ("mysql://a@h/d", {}, "--load takes postgresql://USER@HOST:PORT/DATABASE"),
        ("postgresql://h/d", {}, "--load names no user: give postgresql://USER@"),
        ("postgresql://a@h:port/d", {}, "the host, or the port, also PGPORT"),
        ("postgresql://a@h:70000/d", {}, "the host, or the port, also PGPORT"),
        ("postgresql://a@[::1/d", {}, "the host, or the port, also PGPORT"),
        ("postgresql://a:secret@h/d", {}, "the URL to load into has a password"),
        ("postgresql://a@h/d?password=secret", {}, "password in the URL means nothing here"),
        ("postgresql://a@h/d", {"schema": "pg_x"}, "SCHEMA in dl.cfg is reserved"),
        ("postgresql://a@h/d", {"schema": "é" * 21}, "longer than 40 bytes"),
    ],
)
def test_what_is_no_database_is_refused_without_its_secret(target, url, postgres, said):
    with pytest.raises(UsageError) as refusal:
        target(url, **postgres)
    assert said in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_an_unfamiliar_driver_is_one_line(spark):
    with pytest.raises(UsageError, match="Java has no org.nowhere.Driver here: give spark-submit --packages"):
        jdbc.jdbc_connection(spark, "org.nowhere.Driver", "jdbc:nowhere:", {})


def test_a_hint_goes_by_the_code_or_by_the_words():
    assert jdbc.hint_for("42501", "") == jdbc.HINTS["42501"]
    assert jdbc.hint_for("", "could not extend file: No space left on device") == jdbc.HINTS["53100"]
    assert jdbc.hint_for("XX000", "could not write init file") == jdbc.HINTS["53100"]
    assert jdbc.hint_for("08004", "The server does not support SSL.") == jdbc.HINTS["ssl"]
    assert jdbc.hint_for("XX000", "whatever") == ""
