"""What a run says: its steps, the bar, the summary, the report."""

import io
import json
import re
import time
from types import SimpleNamespace

import pytest
from tables import COLUMNS, until

from sparkify import report
from sparkify.config import Settings
from sparkify.report import Steps, conclude, summary, tables_in_report, warn_of_smaller
from sparkify.storage import LocalStorage

TABLES = {
    "songplays": {"rows": 6800, "files": 1, "bytes": 130_000, "path": "out/songplays"},
    "users": {"rows": 92, "files": 1, "bytes": 4_000, "path": "out/users"},
}


def report_of(songs=None, logs=None):
    """A report with so many rejected songs and logs by reason."""
    reasons = {"songs": songs or {}, "logs": logs or {}}
    counts = {kind: {"rejected": sum(numbers.values()), "reasons": numbers} for kind, numbers in reasons.items()}
    return {"tables": TABLES, "input": counts}


# ---- Steps -----------------------------------------------------------------------------------------------


def test_a_header_explains_the_two_columns_of_seconds(capsys, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(report, "time", SimpleNamespace(monotonic=lambda: clock.now))
    steps = Steps()
    with steps("read logs"), steps("read songs"):
        clock.now += 0.06
    header, *lines = capsys.readouterr().err.splitlines()
    assert header == "   at s   took s  step"
    assert [re.fullmatch(r"    0\.1      0\.1  (.*)", line)[1] for line in lines] == ["read songs", "read logs"]
    assert steps.seconds == {"read songs": 0.06, "read logs": 0.06}
    assert steps.since_start() == 0.06


def test_what_is_said_without_a_step_has_no_header(capsys):
    report.say("cluster j-1")
    assert capsys.readouterr().err == "cluster j-1\n"


def test_a_step_that_fails_has_no_line(capsys):
    steps = Steps()
    with pytest.raises(KeyError), steps("audit"):
        raise KeyError
    assert capsys.readouterr().err.splitlines() == ["   at s   took s  step"]
    assert steps.seconds == {}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def spark_with(stages):
    """What the bar asks of Spark: stages are (tasks, those that are done)."""
    infos = [SimpleNamespace(numTasks=tasks, numCompletedTasks=done) for tasks, done in stages]
    status = SimpleNamespace(getActiveStageIds=lambda: range(len(infos)), getStageInfo=infos.__getitem__)
    return SimpleNamespace(sparkContext=SimpleNamespace(statusTracker=lambda: status))


def test_on_a_terminal_a_bar_shows_the_tasks_and_goes(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Steps().bar(spark_with([(6, 3), (2, 1)])):
        until(terminal.getvalue)
    *drawn, end = terminal.getvalue().split("\r\033[K")[1:]
    assert set(drawn) == {f"[{'=' * 20}{' ' * 20}] 8 tasks"}
    assert end == ""


def test_a_bar_without_spark_ends_quietly(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    spark = spark_with([])
    spark.sparkContext.statusTracker().getActiveStageIds = lambda: 1 / 0
    with Steps().bar(spark):
        time.sleep(0.7)
    assert terminal.getvalue() == "\r\033[K"


def test_elsewhere_there_is_no_bar(capsys):
    with Steps().bar(None):
        pass
    assert capsys.readouterr().err == ""


# ---- The summary and the report --------------------------------------------------------------------------


def test_the_summary_is_a_table_that_ends_with_what_was_rejected():
    assert summary(report_of()).splitlines() == [
        "table               rows   files         MB  where",
        "songplays          6,800       1       0.13  out/songplays",
        "users                 92       1       0.00  out/users",
        "rejected               0",
    ]


def test_the_summary_says_where_the_rejected_records_are_and_why():
    logs = {"not one JSON object": 20, "no whole ts": 1020}
    rejected = summary(report_of({"no song_id": 3}, logs)).splitlines()[3:]
    assert rejected == [
        "rejected               3                     out/_rejected/songs: 3 no song_id",
        "rejected           1,040                     out/_rejected/logs: 1,020 no whole ts, 20 not one JSON object",
    ]
    assert "\n".join(rejected[1:]) == summary(report_of(logs=logs)).splitlines()[-1]


def test_the_report_is_written_and_the_summary_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conclude(report_of(), Settings("in", "out", "report.json"))
    assert json.loads((tmp_path / "report.json").read_text()) == report_of()
    assert capsys.readouterr().out == summary(report_of()) + "\n"


def test_a_table_that_loses_more_than_half_of_its_rows_is_warned_of(capsys):
    before = {"songplays": 6800, "users": 92, "songs": 71, "artists": 50}
    now = {"songplays": 235, "users": 46, "songs": 71, "artists": 5000, "time": 0}
    warn_of_smaller(before, now)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("etl.py: warning: songplays had 6,800 rows, now 235: ")


@pytest.mark.parametrize("place", ["lake", "lake/"])
def test_a_table_lies_below_its_output_however_that_is_written(tmp_path, place):
    found = tables_in_report(LocalStorage(str(tmp_path)), place, dict.fromkeys(COLUMNS, 0))
    assert found["songs"] == {"rows": 0, "files": 0, "bytes": 0, "path": "lake/songs"}
