"""What tests share: a Spark session for those that call etl.py's functions, and the tables of the sample."""

import fcntl
import functools
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from s3 import endpoint, fast_endpoint, no_aws_from_outside, s3, scripted  # noqa: E402, F401  (fixtures)

LONGEST = (
    "test_end_to_end.py",
    "test_s3.py",
    "test_postgres.py",
    "test_catalog.py",
    "test_bad_input.py",
    "test_emr.py",
    "test_redshift.py",
)


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that two processes end at about the same time."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    import etl
    from sparkify.java import postgres_packages

    session = etl.spark_session(str(tmp_path_factory.mktemp("spark")), small=True, packages=postgres_packages())
    session.conf.set("spark.sql.shuffle.partitions", 4)
    yield session
    etl.stop(session)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """made_once(name, make): a folder, which make(folder) fills once, and all of pytest's processes only read."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def call(name, make):
        new, folder = root / f"new-{name}", root / name
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir()
                make(new)
                new.rename(folder)
        return folder

    return call


@pytest.fixture(scope="session")
def sample_run(made_once):
    """A folder with work/, where `python etl.py` has run, and with what it said: said.json, both outputs."""
    from tables import run_etl

    def make(folder):
        (folder / "work").mkdir()
        process = run_etl(cwd=folder / "work")
        assert process.returncode == 0, process.stderr
        (folder / "said.json").write_text(json.dumps([process.stdout, process.stderr]))

    return made_once("sample", make)


@pytest.fixture(scope="session")
def sample_output(sample_run):
    """A folder with output/, the tables of the sample: for tests that only read it."""
    return sample_run / "work"


# --- Two inputs whose five tables differ --------------------------------------------------------------------


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """[(folder, what the oracle makes of it)], two of them."""
    import oracle
    from dirty import event, song, write_input

    folder, found = tmp_path_factory.mktemp("inputs"), []
    for number in range(2):
        songs = [song(song_id=f"S{number}{n}", artist_id=f"A{number}{n}", title=f"T{n}", year=n) for n in range(3)]
        plays = [
            event(
                userId=str(n % 4 + number), itemInSession=n, ts=1541105830796 + n * 864_000_000 + number, song=f"T{n}"
            )
            for n in range(8)
        ]
        source = write_input(folder / str(number), songs, [*plays, plays[0], event(page="Home")])
        found.append((source, oracle.five_tables(source)))
    return found


@pytest.fixture(scope="session")
def first_tables(inputs, made_once):
    """The tables of the first input."""
    from tables import run_etl

    def make(folder):
        process = run_etl("--input", inputs[0][0], "--output", "lake", cwd=folder)
        assert process.returncode == 0, process.stderr

    return made_once("first", make) / "lake"


@pytest.fixture
def lake(first_tables, tmp_path):
    """A folder with lake/, a copy of them."""
    shutil.copytree(first_tables, tmp_path / "lake")
    return tmp_path


@pytest.fixture
def run_here(spark, no_aws_from_outside, tmp_path_factory, monkeypatch, capsys):  # noqa: F811
    """Call main in this process, on the tests' session; gives (status, last line of standard error).

    Both outputs are in run_here.stdout and run_here.stderr.
    """
    import etl
    from sparkify.errors import Ending

    work = functools.cached_property(lambda ending: str(tmp_path_factory.mktemp("work")))  # a failed run leaves it
    work.__set_name__(Ending, "work")
    monkeypatch.setattr(Ending, "work", work)

    def call(*arguments):
        capsys.readouterr()
        status = etl.main(list(map(str, arguments)))
        call.stdout, call.stderr = capsys.readouterr()
        assert "Traceback" not in call.stderr
        last = ([""] + call.stderr.splitlines())[-1]
        assert status == 0 or last.startswith("etl.py: "), call.stderr
        return status, last

    before = spark.conf.get("spark.sql.shuffle.partitions")
    yield call
    spark.conf.set("spark.sql.shuffle.partitions", before)
