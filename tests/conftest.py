"""What tests share: a Spark session for those that call etl.py's functions, and the tables of the sample."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


LONGEST = (
    "test_s3.py",
    "test_end_to_end.py",
    "test_faults.py",
    "test_notebook.py",
    "test_readme.py",
    "test_property.py",
)


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that two processes end at about the same time."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    import etl

    session = etl.spark_session(str(tmp_path_factory.mktemp("spark")), small=True)
    session.conf.set("spark.sql.shuffle.partitions", 4)
    yield session
    etl.stop(session)


@pytest.fixture(scope="session")
def sample_output(tmp_path_factory):
    """A folder with output/, the tables of the sample: for tests that only read it."""
    from tables import run_etl

    folder = tmp_path_factory.mktemp("sample-output")
    process = run_etl(cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory):
    """The address of a real HDFS."""
    from hdfs import serving_hdfs

    with serving_hdfs(tmp_path_factory.mktemp("hdfs")) as address:
        yield address


@pytest.fixture
def run_here(spark, monkeypatch, capsys, tmp_path):
    """Call main in this process, on the tests' session; gives (status, last line of standard error)."""
    import etl

    monkeypatch.setattr(etl, "stop", lambda spark: None)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capsys.readouterr()
        status = etl.main(list(map(str, arguments)))
        said = capsys.readouterr().err
        assert "Traceback" not in said
        last = ([""] + said.splitlines())[-1]
        assert status == 0 or last.startswith("etl.py: "), said
        return status, last

    before = spark.conf.get("spark.sql.shuffle.partitions")
    yield call
    spark.conf.set("spark.sql.shuffle.partitions", before)
