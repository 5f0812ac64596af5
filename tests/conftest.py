"""What tests share: a Spark session for those that call etl.py's functions, and the tables of the sample."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


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
