"""Loads that are killed, that readers or others disturb, whose server lacks something."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import postgres
import pytest
from dirty import event, song, write_input
from postgres import ADMIN, PASSWORD
from s3 import client_of, put, write_config
from tables import ETL, ROOT, environment, run_etl, until, visible
from test_postgres import assert_loaded, assert_nothing_left, database, lakes, loaded, runs_in, server, session_that  # noqa: F401

from sparkify import postgres as room
from sparkify.schema import TABLES

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_so_does_what_is_made_while_the_tables_are_loaded(server, database, loaded, lakes, monkeypatch):
    assert loaded(lakes[0][0])[0] == 0
    write = room._write

    def meanwhile(*arguments):
        server.sql("CREATE VIEW best AS SELECT * FROM sparkify.songplays", database=database)
        return write(*arguments)

    monkeypatch.setattr(room, "_write", meanwhile)
    status, line = loaded(lakes[1][0])
    assert status == 1
    assert "view best depends on table sparkify.songplays: drop that, and make it again after the load" in line
    assert line.endswith("; the database is as it was")
    assert_loaded(server, database, lakes[0][1])
    assert_nothing_left(server, database)


def test_a_swap_waits_for_who_reads_the_old_tables(server, database, loaded, lakes, monkeypatch):
    assert loaded(lakes[0][0])[0] == 0
    reading = ["BEGIN", "SELECT count(*) FROM sparkify.artists"]
    monkeypatch.setattr(room, "SWAP_WAIT", 1)
    with session_that(server, database, *reading):
        status, line = loaded(lakes[1][0])
        assert status == 1
        assert re.search(r"the old tables are in use all the time, by admin \(process \d+\)", line)
        # Nobody waits behind a swap that waits.
        waits_for_nobody = {"database": database, "PGOPTIONS": "-c lock_timeout=100"}  # ms
        assert server.sql("SELECT count(*) FROM sparkify.songplays", **waits_for_nobody) == ["8"]
    assert_loaded(server, database, lakes[0][1])
    monkeypatch.setattr(room, "SWAP_WAIT", 60)
    with session_that(server, database, *reading) as other:
        threading.Timer(3, other.stdin.close).start()
        assert loaded(lakes[1][0])[0] == 0
    assert_loaded(server, database, lakes[1][1])


# A query of all five, in an order that isn't that of the swap.
READ = "SELECT " + ", ".join(f"(SELECT min({TABLES[name].key}) FROM {name})" for name in sorted(TABLES, reverse=True))


def test_readers_in_a_loop_see_all_old_or_all_new_and_no_error(server, database, loaded, lakes, tmp_path):
    assert loaded(lakes[0][0])[0] == 0
    words = {**os.environ, "PGPASSWORD": PASSWORD, "PGTZ": "UTC", "PGOPTIONS": "-c search_path=sparkify"}
    expected = set(server.sql(READ, database=database, PGOPTIONS=words["PGOPTIONS"]))
    with contextlib.ExitStack() as readers:
        files = [readers.enter_context(open(tmp_path / f"reader-{number}", "w+")) for number in range(3)]
        for file in files:
            pipes = {"stdin": subprocess.PIPE, "stdout": file, "stderr": file, "text": True}
            reader = readers.enter_context(subprocess.Popen(server.command(ADMIN, database), env=words, **pipes))
            readers.callback(reader.kill)
            reader.stdin.write(f"{READ}\n\\watch 0.005\n")
            reader.stdin.flush()
        for turn in (1, 0, 1):
            assert loaded(lakes[turn][0])[0] == 0
        time.sleep(0.5)
    expected |= set(server.sql(READ, database=database, PGOPTIONS=words["PGOPTIONS"]))
    assert len(expected) == 2
    for file in files:
        lines = [line for line in Path(file.name).read_text().split("\n")[:-1] if line]
        assert set(lines) == expected
        assert len(lines) > 100


def test_who_may_create_but_owns_nothing_else_can_load(server, database, loaded, lakes):
    secret = PASSWORD.replace("'", "''")
    server.sql(
        f"CREATE ROLE u{database} LOGIN PASSWORD '{secret}'", f"GRANT CREATE ON DATABASE {database} TO u{database}"
    )
    assert loaded(lakes[0][0], server.url(database, f"u{database}"))[0] == 0
    server.sql("CREATE SCHEMA other", database=database)
    assert_loaded(server, database, lakes[0][1])


def test_a_database_of_another_encoding_that_lacks_a_character_is_named(server, database, loaded, run_here, tmp_path):
    server.sql(f"CREATE DATABASE l{database} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    source = write_input(tmp_path / "in", [song(title="é"), song(song_id="S2", title="\u2603")], [event()])
    assert run_here("--input", source, "--output", tmp_path / "lake")[0] == 0
    status, line = loaded(tmp_path / "lake", server.url(f"l{database}"))
    assert status == 1
    assert "LATIN1" in line
    assert "can't hold this value in a database of this encoding" in line
    assert_nothing_left(server, f"l{database}")


def test_tables_that_are_replaced_while_they_are_loaded_are_not_swapped(
    server, database, loaded, lakes, lake, monkeypatch
):
    assert loaded(lakes[1][0])[0] == 0
    write = room._write

    def meanwhile(*arguments):
        count = write(*arguments)
        about = json.loads((lake / "lake/_published.json").read_text())
        (lake / "lake/_published.json").write_text(json.dumps({**about, "run_id": "another"}))
        return count

    monkeypatch.setattr(room, "_write", meanwhile)
    status, line = loaded(lake / "lake")
    assert status == 1
    assert "were replaced while they were loaded" in line
    assert_loaded(server, database, lakes[1][1])
    assert_nothing_left(server, database)


def test_the_lines_of_the_readme_lead_from_nothing_to_psql(server, tmp_path):
    """But for the one that installs PostgreSQL, as what the tests use is installed."""
    (block,) = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "CREATE ROLE" in block]
    install, *lines = block.splitlines()
    assert install == "sudo apt-get install -y postgresql"
    assert len(lines) == 3
    as_admin = f'PGPASSWORD="$SECRET" psql -h 127.0.0.1 -U {ADMIN} postgres'
    script = "\n".join(lines).replace("sudo -u postgres psql", as_admin)
    script = script.replace("python etl.py", f"{sys.executable} {ETL}")
    words = environment(SECRET=PASSWORD, PGPORT=str(server.port))
    process = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=words, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert re.search(r"paid *\| *4402\n", process.stdout)


INSTANTS = ["load tables begins", "load tables ends", "load keys begins", "swap begins", "swap before commit"]


@contextlib.contextmanager
def paused(instant, *arguments, cwd, password=PASSWORD):
    """etl.py where it pauses at an instant, with its standard error so far; kill -9 of all of it after the block."""
    words = environment(TMPDIR=str(cwd), PGPASSWORD=password)
    command = [sys.executable, ROOT / "tests/paused.py", instant, *map(str, arguments)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=cwd, env=words, start_new_session=True, **pipes)
    said = []
    try:
        assert any(said.append(line) or f"paused at {instant}" in line for line in process.stderr), "".join(said)
        yield "".join(said)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def test_killed_at_any_instant_the_old_tables_are_there_and_the_next_load_cleans_up(
    server, database, loaded, lakes, tmp_path
):
    assert loaded(lakes[0][0])[0] == 0
    for number, instant in enumerate(INSTANTS):
        with paused(instant, "--no-run", "--output", lakes[1][0], "--load", server.url(database), cwd=tmp_path):
            pass
        assert_loaded(server, database, lakes[0][1])
        assert len(runs_in(server, database)) == 1, number
    assert loaded(lakes[1][0])[0] == 0
    assert_loaded(server, database, lakes[1][1])
    assert_nothing_left(server, database)
    assert loaded(lakes[0][0])[0] == 0
    with paused("swap ends", "--no-run", "--output", lakes[1][0], "--load", server.url(database), cwd=tmp_path):
        assert_loaded(server, database, lakes[1][1])


def test_killed_while_rows_are_written_the_old_tables_are_there(server, database, loaded, lakes, tmp_path):
    assert loaded(lakes[0][0])[0] == 0
    waits = "CREATE FUNCTION wait() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(20); END'"
    trigger = "CREATE EVENT TRIGGER w ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION wait()"
    server.sql(waits, trigger, database=database)
    command = [sys.executable, str(ETL), "--no-run", "--output", str(lakes[1][0]), "--load", server.url(database)]
    options = {"env": environment(PGPASSWORD=PASSWORD), "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(command, **options)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    until(lambda: server.sql(waiting) != ["0"])
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert_loaded(server, database, lakes[0][1])
    server.sql("DROP EVENT TRIGGER w", database=database)
    # The next load comes while the server still works for the dead one.
    assert loaded(lakes[1][0])[0] == 0
    assert_loaded(server, database, lakes[1][1])
    assert_nothing_left(server, database)


def test_the_password_is_nowhere_while_it_runs(server, database, inputs, tmp_path):
    arguments = ["--input", inputs[0][0], "--output", "lake", "--report", "report.json", "--load", server.url(database)]
    with paused("swap begins", *arguments, cwd=tmp_path) as said:
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        assert any(b"paused.py" in command for command in commands)
        assert any(path.name == "spark.log" for path in tmp_path.rglob("*"))
        assert not [found for found in (*commands, *files, said.encode()) if PASSWORD.encode() in found]


def test_a_server_that_wants_tls_gets_it_and_says_so_where_it_is_refused(loaded, lakes):
    with postgres.running(tls=True) as server:
        assert loaded(lakes[0][0], server.url())[0] == 0
        assert_loaded(server, "postgres", lakes[0][1])
        status, line = loaded(lakes[0][0], f"{server.url()}?sslmode=disable")
        assert status == 2
        assert "no encryption" in line
        assert line.endswith("where it wants TLS, add ?sslmode=require to the URL")
        status, line = loaded(
            lakes[1][0], f"{server.url()}?sslmode=verify-full&sslrootcert={server.folder}/nowhere.crt"
        )
        assert status == 2
        assert "trusted here" in line


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts a disk")
def test_a_full_disk_is_one_line_and_the_old_tables_stay(server, loaded, lakes):
    place = server.folder / "small"
    place.mkdir()
    options = f"size=10m,mode=0700,uid={os.stat(server.folder).st_uid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        server.sql(f"CREATE TABLESPACE small LOCATION '{place}'")
        server.sql("CREATE DATABASE small TABLESPACE small")
        assert loaded(lakes[0][0], server.url("small"))[0] == 0
        about = os.statvfs(place)
        (place / "filler").write_bytes(bytes(about.f_bavail * about.f_frsize - 600_000))
        status, line = loaded(lakes[1][0], server.url("small"))
        assert status == 1
        assert re.search("No space left on device|could not write init file", line)  # of a connection that is new
        assert line.endswith("make room on the server's disk; the database is as it was")
        assert_loaded(server, "small", lakes[0][1])
        assert_nothing_left(server, "small")
    finally:
        server.sql("DROP DATABASE small WITH (FORCE)", "DROP TABLESPACE small")
        subprocess.run(["umount", place], check=True)


def test_tables_on_s3_are_loaded_by_the_run_and_later(server, database, lakes, inputs, tmp_path, fast_endpoint):
    s3 = client_of(fast_endpoint)
    put(s3, "load", {f"lake/{k}": v for k, v in visible(lakes[1][0]).items() if v is not None})
    put(s3, "load", {"lake/_published.json": (lakes[1][0] / "_published.json").read_bytes()})
    write_config(tmp_path, fast_endpoint)
    words = environment(PGPASSWORD=PASSWORD)
    arguments = ["--output", "s3://load/lake", "--load", server.url(database)]
    process = run_etl("--no-run", *arguments, cwd=tmp_path, env=words)
    assert process.returncode == 0, process.stderr
    assert_loaded(server, database, lakes[1][1])
    process = run_etl("--input", inputs[0][0], *arguments, cwd=tmp_path, env=words)
    assert process.returncode == 0, process.stderr
    assert "hadoop-aws" not in process.stderr
    assert_loaded(server, database, lakes[0][1])
