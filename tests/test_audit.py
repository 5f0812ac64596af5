"""The audit: what was staged and is wrong fails it, by the rule that it breaks, and nothing is published."""

import os
import re
import shutil
from pathlib import Path

import duckdb
import pytest
from rows import frame
from tables import COLUMNS, assert_tables, visible

import etl
from sparkify.audit import audit, rules
from sparkify.errors import JobError
from sparkify.source import Counts
from sparkify.staging import write_rejected
from sparkify.storage import LocalStorage


def every_file_twice(name):
    def tamper(staging):
        for path in list((staging / name).rglob("*.parquet")):
            shutil.copy(path, path.with_name(f"copy-{path.name}"))

    return tamper


def without_a_row(name, key):
    def tamper(staging):
        for path in list((staging / name).rglob("*.parquet")):
            rows = duckdb.sql(f"SELECT * FROM read_parquet('{path}', hive_partitioning = false)")
            if key in str(rows.fetchall()):
                rows.filter(f"{TABLE_KEYS[name]} <> '{key}'").write_parquet(f"{path}.new")
                os.replace(f"{path}.new", path)

    return tamper


def another_month(name):
    def tamper(staging):
        path = min((staging / name).glob("year=*/month=*"))
        path.rename(path.with_name("month=7"))

    return tamper


def without_a_file(name):
    def tamper(staging):
        next((staging / name).rglob("*.parquet")).unlink()

    return tamper


def with_a_row(name, key, value):
    def tamper(staging):
        path = next((staging / name).rglob("*.parquet"))
        rows = duckdb.sql(f"SELECT * FROM read_parquet('{path}', hive_partitioning = false) LIMIT 1")
        rows.project(f"* REPLACE ({value}::BIGINT AS {key})").write_parquet(f"{path.parent}/more.parquet")

    return tamper


TABLE_KEYS = {"users": "user_id", "songs": "song_id", "artists": "artist_id"}
ONE_ROW = "one row for each "
TAMPERED = {
    "songplays, a file gone": (without_a_file("songplays"), ONE_ROW),
    "songplays, a row more": (with_a_row("songplays", "songplay_id", 99), ONE_ROW),
    "songplays, no key": (with_a_row("songplays", "songplay_id", "NULL"), ONE_ROW),
    "songplays, twice": (every_file_twice("songplays"), ONE_ROW),
    "songs, a file gone": (without_a_file("songs"), ONE_ROW),
    "time, a file gone": (without_a_file("time"), ONE_ROW),
    "users, a row more": (with_a_row("users", "user_id", 99), ONE_ROW),
    "users, no key": (with_a_row("users", "user_id", "NULL"), ONE_ROW),
    "users, twice": (every_file_twice("users"), ONE_ROW),
    "users of songplays": (without_a_row("users", "2"), ONE_ROW),
    "songs of songplays": (without_a_row("songs", "S11"), ONE_ROW),
    "artists of songplays": (without_a_row("artists", "A11"), ONE_ROW),
    "songplays, another month": (another_month("songplays"), "one row for each .* in the folder of its month"),
    "time, another month": (another_month("time"), "one row for each .* in the folder of its month"),
}


@pytest.fixture(scope="module")
def staged(spark, inputs, tmp_path_factory):
    """(folder, song records, plays, what was written) of what a run on the second input stages."""
    folder, source = str(tmp_path_factory.mktemp("staged")), etl.find_input(str(inputs[1][0]))
    written = {**etl.process_song_data(spark, source, folder), **etl.process_log_data(spark, source, folder)}
    songs, plays = etl.songs_of(source.records(spark, "songs")), etl.plays_of(source.records(spark, "logs"))
    return folder, songs, plays, written


def test_what_was_staged_as_it_should_be_passes(spark, staged, inputs):
    folder, songs, plays, written = staged
    audit(spark, folder, songs, plays)
    assert {name: table.rows for name, table in written.items()} == {name: len(inputs[1][1][name]) for name in COLUMNS}
    assert written["songplays"].with_song == inputs[1][1]["report"]["matched_plays"]


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_staged_and_is_wrong_fails(spark, staged, tmp_path, what):
    tamper, rule = TAMPERED[what]
    folder, songs, plays, _ = staged
    shutil.copytree(folder, tmp_path / "run")
    tamper(tmp_path / "run")
    with pytest.raises(JobError) as error:
        audit(spark, str(tmp_path / "run"), songs, plays)
    name = re.match("[a-z]+", what)[0]
    assert re.match(rf"the audit failed: {name}: \d+ keys break the rule «{rule}.*», for example ", str(error.value))


def test_each_rule_is_broken_by_one_of_these():
    broken = {(what.split(",")[0].split(" of ")[0], rule) for what, (_, rule) in TAMPERED.items()}
    assert {
        (rule.table, rule.name)
        for rule in rules(1)
        if not any(rule.table == table and rule.name.startswith(name) for table, name in broken)
    } == set()


def test_a_failed_audit_publishes_nothing_and_keeps_what_was_staged(inputs, lake, run_here, monkeypatch):
    def tampered(spark, staging, *more):
        without_a_file("songplays")(Path(staging))
        return audit(spark, staging, *more)

    monkeypatch.setattr(etl, "audit", tampered)
    before = visible(lake / "lake")
    status, line = run_here("--input", inputs[1][0], "--output", "lake")
    assert status == 1
    assert line.startswith("etl.py: the audit failed: songplays")
    kept = Path(re.search(r"(/\S+/_staging/[^/\s;]+)", line).group(1))
    assert {path.name for path in kept.iterdir()} >= set(COLUMNS)
    assert visible(lake / "lake") == before


def test_as_many_rejected_records_as_are_allowed_are_none_too_many(spark, tmp_path):
    records = frame(spark, "logs", ["{"])
    counts = Counts(71, 0, {"not one JSON object": 29})
    write_rejected(records, "logs", counts, 0.29, str(tmp_path))  # 0.29 * 100 is less than 29
    with pytest.raises(JobError, match="29 of 100 log records"):
        write_rejected(records, "logs", counts, 0.2899, str(tmp_path / "more"))


def test_records_that_are_missing_in_what_was_staged_are_noticed(inputs, lake, run_here, monkeypatch):
    (lake / "in/log_data").mkdir(parents=True)
    (lake / "in/log_data/a.json").write_text("{\n")
    shutil.copytree(inputs[1][0] / "song_data", lake / "in/song_data")

    def tampered(spark, staging, *more):
        shutil.rmtree(f"{staging}/_rejected")
        return audit(spark, staging, *more)

    monkeypatch.setattr(etl, "audit", tampered)
    before = visible(lake / "lake")
    status, line = run_here("--input", "in", "--output", "lake", "--max-rejected", "1")
    assert status == 1
    assert "0 of 1 rejected logs" in line
    assert visible(lake / "lake") == before


def test_a_failure_between_two_moves_says_that_the_next_run_completes_it(lake, inputs, run_here, monkeypatch):
    real, moves = LocalStorage.move, []

    def move(self, old, new):
        moves.append(new)
        if len(moves) == 4:
            raise JobError("stopped")
        real(self, old, new)

    with monkeypatch.context() as patched:
        patched.chdir(lake)
        patched.setattr(LocalStorage, "move", move)
        status, line = run_here("--input", inputs[1][0], "--output", "lake")
    hint = "if the publishing had begun, the next run, or --recover, completes it"
    assert (status, line) == (1, f"etl.py: stopped; {hint}")
    assert run_here("--recover", "--output", lake / "lake")[0] == 0
    assert_tables(lake / "lake", inputs[1][1])
