"""The sample and 100,000 events as a cluster would read and write them, and by spark-submit."""

import subprocess
import sys
from pathlib import Path

import dirty
import pyspark
import pytest
from tables import FOR_SECONDS, ROOT, assert_tables, environment, read_table
from test_end_to_end import assert_rejected, assert_report, assert_summary, done, sample_expected  # noqa: F401

from sparkify.java import find_java


def test_spark_submit_with_other_partitions_gives_the_same_tables(tmp_path, sample_expected):
    """Also where Hadoop takes paths without a scheme for those of another file system, as on EMR."""
    spark_home = Path(pyspark.__file__).parent
    settings = ["spark.sql.shuffle.partitions=7", "spark.default.parallelism=5", "spark.ui.enabled=false"]
    settings.append("spark.hadoop.fs.defaultFS=hdfs://127.0.0.1:1")
    command = [spark_home / "bin/spark-submit", "--master", "local[1]"]
    command += [word for setting in settings for word in ("--conf", setting)]
    java = find_java(pyspark.__version__)
    run = done(
        tmp_path,
        *("--input", ROOT / "data", "--output", "lake/sparkify", "--report", "report.json"),
        source=None,
        expected=sample_expected,
        output="lake/sparkify",
        command=command,
        env=environment(SPARK_HOME=str(spark_home), JAVA_HOME=java, PYSPARK_PYTHON=sys.executable, **FOR_SECONDS),
    )
    assert_tables(run.output, run.expected)
    assert_summary(run)
    assert_report(run)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """100,000 events and 500 songs in folders, with duplicates and bad records: up to 0.9 % of a kind are rejected."""
    folder = tmp_path_factory.mktemp("simulated")
    simulate = [sys.executable, ROOT / "data/simulate.py", "clean", "--songs", "500", "--events", "100000"]
    subprocess.run(list(map(str, simulate)), cwd=folder, check=True, capture_output=True)
    dirty.make_dirty(folder / "clean", folder / "dirty", seed=3, share=0.009)
    arguments = ("--input", "dirty", "--output", "lake", "--report", "report.json")
    return done(folder, *arguments, source=folder / "dirty", expected=None, output="lake")


def test_100_000_events_with_bad_ones_give_the_oracles_tables(simulated):
    assert_tables(simulated.output, simulated.expected)


def test_the_rejected_records_are_kept_and_counted(simulated):
    assert len(simulated.expected["rejected"]) > 500
    assert_rejected(simulated)
    assert_summary(simulated)
    assert_report(simulated)


def test_two_plays_never_have_the_same_songplay_id(simulated):
    ids = [row[0] for row in read_table(simulated.output, "songplays")]
    assert len(set(ids)) == len(ids) == len(simulated.expected["songplays"])


# etl.py for which any input is large: tasks read it by ranges, and tables are made as those of millions of rows.
AS_LARGE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import etl
from sparkify import source
source.SMALL_INPUT = etl.LARGE_CATALOGUE = 0
source.SHARE = 1_000_000
sys.exit(etl.main(sys.argv[2:]))
"""


def done_as_large(folder, source, expected):
    arguments = ("--input", source, "--output", "large", "--report", "report.json")
    command = [sys.executable, "-c", AS_LARGE]
    return done(folder, *arguments, source=source, expected=expected, output="large", command=command)


def assert_same(run):
    assert_tables(run.output, run.expected)
    assert_report(run)


def test_the_sample_taken_for_large_gives_the_oracles_tables(tmp_path, sample_expected):
    assert_same(done_as_large(tmp_path, ROOT / "data", sample_expected))


def test_100_000_events_taken_for_many_give_the_oracles_tables(simulated):
    assert_same(done_as_large(simulated.folder, simulated.folder / "dirty", simulated.expected))
