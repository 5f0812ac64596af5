"""One Spark session for the tests that call etl.py's functions; every other test runs etl.py as a user would."""

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
