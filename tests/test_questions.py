"""The analytics team's questions: their committed answers are what Spark, DuckDB and the raw JSON give."""

import io

import duckdb
import pytest
import questions
from tables import COLUMNS, columns_of

import etl
from sparkify.query import write_csv

FILES = sorted(questions.QUESTIONS.glob("*.sql"))
NAMES = [file.stem for file in FILES]


@pytest.fixture(scope="module")
def opened(spark, sample_output):
    """The session with the sample's tables opened."""
    etl.open_tables(spark, str(sample_output / "output"))
    return spark


@pytest.fixture(scope="module")
def in_duckdb(sample_output):
    """A DuckDB connection with the sample's tables as views, start_time without a zone."""
    with duckdb.connect() as con:
        for name in COLUMNS:
            at = "* REPLACE (make_timestamp(epoch_us(start_time)) AS start_time)"
            columns = at if "start_time" in dict(columns_of(name)) else "*"
            files = f"read_parquet('{sample_output}/output/{name}/**/*.parquet', hive_partitioning = true)"
            con.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM {files}")
        yield con


def sql_of(name):
    return (questions.QUESTIONS / f"{name}.sql").read_text(encoding="utf-8")


def answer_of(name):
    return (questions.QUESTIONS / f"{name}.csv").read_text(encoding="utf-8")


def test_each_file_begins_with_its_question():
    assert len(FILES) >= 12
    for file in FILES:
        first = sql_of(file.stem).splitlines()[0]
        assert first.startswith("-- "), file
        assert "?" in first, file


def test_the_committed_answers_are_those_of_the_raw_json():
    expected = questions.answers(questions.ROOT / "data")
    assert sorted(expected) == NAMES
    assert {name: answer_of(name) for name in NAMES} == expected


@pytest.mark.parametrize("name", NAMES)
def test_spark_answers_from_the_tables(opened, name):
    answer = etl.query(opened, sql_of(name))
    text = io.StringIO()
    write_csv(answer, text)
    assert text.getvalue() == answer_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_duckdb_answers_from_the_tables_by_the_same_sql(in_duckdb, name):
    assert questions.as_csv(in_duckdb.sql(sql_of(name))) == answer_of(name)
