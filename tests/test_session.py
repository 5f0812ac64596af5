"""Java and the session: what happens when Java doesn't start, and the archive of its classes."""

import locale
import os
import subprocess
import sys
import time

import pytest
from rows import frame
from tables import ETL, environment

from sparkify import java, session
from sparkify.schema import RECORDS


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder that looks like a Java 17 that can have an archive; the cache is tmp_path/cache."""
    (tmp_path / "java/lib/server").mkdir(parents=True)
    (tmp_path / "java/lib/server/classes.jsa").touch()
    (tmp_path / "java/release").write_text('JAVA_VERSION="17.0.15"')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SPARKIFY_CLASS_ARCHIVE", raising=False)
    return str(tmp_path / "java")


def test_the_first_run_leaves_an_archive_and_the_next_takes_it(home, tmp_path):
    (option,) = java.archive_options(home)
    unfinished, archive = java.archive_left(f"-Dx=y {option} -Dz=1")
    (tmp_path / "cache/sparkify-etl").mkdir(exist_ok=True)
    with open(unfinished, "w") as file:
        file.write("classes")
    java.keep_archive(unfinished, archive, whole=True)
    assert java.archive_options(home)[-1] == f"-XX:SharedArchiveFile={archive}"
    assert java.archive_left(" ".join(java.archive_options(home))) is None
    java.remove_archive(" ".join(java.archive_options(home)))
    assert not os.path.exists(archive)


def test_an_archive_that_is_not_whole_is_removed(home):
    unfinished, archive = java.archive_left(java.archive_options(home)[0])
    with open(unfinished, "w") as file:
        file.write("half")
    java.keep_archive(unfinished, archive, whole=False)
    assert not os.path.exists(unfinished)
    assert not os.path.exists(archive)


def test_what_killed_runs_have_left_goes_at_the_next_start(home, tmp_path):
    cache = tmp_path / "cache/sparkify-etl"
    cache.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f"a.jsa.{dead.pid}", f"a.jsa.{os.getpid()}", "new.jsa", "old.jsa"):
        (cache / name).touch()
    long_ago = time.time() - java.UNUSED_ARCHIVE - 60
    os.utime(cache / "old.jsa", (long_ago, long_ago))
    java.archive_options(home)
    assert sorted(path.name for path in cache.iterdir()) == [f"a.jsa.{os.getpid()}", "new.jsa"]


def test_the_archive_can_be_turned_off(home, monkeypatch):
    monkeypatch.setenv("SPARKIFY_CLASS_ARCHIVE", "off")
    assert java.archive_options(home) == []


@pytest.mark.parametrize("folder", ["pyspark", "my pyspark"])
def test_the_launcher_is_named_to_java_where_its_path_has_no_blank(tmp_path, monkeypatch, folder):
    """Spark's script splits the options at blanks."""
    jar = tmp_path / folder / "jars/spark-launcher_2.12-3.5.9.jar"
    jar.parent.mkdir(parents=True)
    jar.touch()
    monkeypatch.setattr(java.pyspark, "__file__", str(tmp_path / folder / "__init__.py"))
    options = java.launcher_options().split()
    assert options[:2] == ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    assert options[2:] == ([] if " " in folder else [f"-Xbootclasspath/a:{jar}"])


def test_too_little_memory_for_java_is_one_line(tmp_path):
    words = environment(PYSPARK_SUBMIT_ARGS="--driver-memory 99999g pyspark-shell", SPARKIFY_CLASS_ARCHIVE="off")
    process = subprocess.run([sys.executable, ETL], cwd=tmp_path, env=words, capture_output=True, text=True)
    last = process.stderr.splitlines()[-1]
    assert (process.returncode, process.stdout) == (2, ""), process.stderr
    assert last.startswith("etl.py: Java doesn't start: ")
    assert "memory" in last or "heap" in last
    assert "--driver-memory 1g" in last
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("settings", "log", "said"),
    [
        ({"spark.jars.packages": "a:b:1"}, "Invalid maximum heap size\n", "Java doesn't start: Invalid maximum heap"),
        ({"spark.jars.packages": "a:b:1"}, "[unresolved dependency: a#b;1]\n", "can't download a:b:1, which is needed"),
        ({}, "Error: [unresolved dependency: c#d;1]\n", "Java doesn't start: Error: [unresolved dependency: c#d;1]"),
    ],
)
def test_a_download_is_the_reason_only_where_java_says_so(tmp_path, settings, log, said):
    """The packages that a user names by PYSPARK_SUBMIT_ARGS aren't in the settings."""
    (tmp_path / "spark.log").write_text(log)
    reason = session.why_java_failed(settings, str(tmp_path / "spark.log"))
    assert reason.startswith(said)


@pytest.mark.parametrize("way", ["private", "public"])
def test_rows_of_python_are_a_frame_with_their_columns(spark, monkeypatch, way):
    values = [[None, None, None, None, 1, 2, 3, 4, "paid", None, "é😀", "s", "a", 1.5, None, "x\0y", "F", True]]
    values.append([None] * len(RECORDS["logs"]))
    if way == "public":
        monkeypatch.setattr(session, "DataFrame", None)
    found = session.frame_of(spark, spark.sparkContext.parallelize(values, 1), RECORDS["logs"])
    assert [list(row) for row in found.collect()] == values
    assert found.schema == frame(spark, "logs", []).schema


@pytest.mark.parametrize(
    ("name", "is_utf8"), [("C", False), ("POSIX", False), ("C.UTF-8", True), ("xx_XX.UTF-8", False)]
)
def test_a_locale_that_is_not_here_or_lacks_characters_is_none_for_java(monkeypatch, name, is_utf8):
    before = locale.setlocale(locale.LC_ALL)
    monkeypatch.setenv("LC_ALL", name)
    assert session.is_locale_utf8() is is_utf8
    monkeypatch.setenv("LC_ALL", "")
    monkeypatch.delenv("LC_CTYPE", raising=False)
    monkeypatch.setenv("LANG", name)  # Python itself would take C.UTF-8 in the place of C, or of one that isn't here
    assert session.is_locale_utf8() is is_utf8
    assert locale.setlocale(locale.LC_ALL) == before


def test_the_callers_session_stays_fit_for_large_queries(spark, tmp_path):
    """A run on a small input takes it as it is, and leaves it open."""
    name = "spark.sql.codegen.wholeStage"
    before = spark.conf.get(name)
    spark.conf.set(name, "true")
    try:
        with session.session(str(tmp_path), small=True) as taken:
            assert taken.sparkContext is spark.sparkContext
        assert spark.conf.get(name) == "true"
        assert spark.range(3).count() == 3
    finally:
        spark.conf.set(name, before)
