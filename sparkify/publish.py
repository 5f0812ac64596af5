"""From staging to the tables' places, by a journal.

How they get there is the storage's: renamed one after the other on a disk, deleted and copied on S3. A run that is
killed meanwhile leaves the journal, by which the next one, or --recover, does the rest.
"""

import contextlib
import json
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any, Callable, Optional

from sparkify.errors import JobError, PlaceError, UsageError
from sparkify.lock import LOCK, Lock
from sparkify.parallel import in_parallel
from sparkify.places import DATA_FOLDERS, bucket_and_key, data_files, is_hidden, is_s3
from sparkify.report import say
from sparkify.schema import FOLDERS, TABLES
from sparkify.storage import LocalStorage, storage_of

STAGING_DAYS = 7  # the staging of a run that began longer ago is removed
JOURNAL = "_journal.json"
PUBLISHED = "_published.json"  # which run the tables are of, and how many rows they have
OWN_NAMES = (*FOLDERS, "_staging", JOURNAL, PUBLISHED, LOCK)  # in the place of an output
RUN_TIME = "%Y%m%dT%H%M%SZ"  # of the id of a run, UTC
RUN_ID_FORM = r"\d{8}T\d{6}Z-[0-9a-f]{8}"


def new_run_id() -> str:
    return f"{time.strftime(RUN_TIME, time.gmtime())}-{uuid.uuid4().hex[:8]}"


def staging_of(run_id: str) -> str:
    """The folder of a storage where a run stages."""
    return f"_staging/{run_id}"


def prepare(storage: Any, lock: Lock) -> None:
    """Complete what was interrupted before, and remove what dead runs have left; each is said."""
    if recovered := move_by_journal(storage, lock):
        say(f"finished publishing run {recovered}, which was interrupted")
    discard_old_staging(storage)


def publish(storage: Any, run_id: str, lock: Lock, rows: Mapping[str, int]) -> None:
    """Put the staged tables in the place of the old ones, by a journal of what was staged.

    A folder of which nothing was staged (_rejected, when nothing is) is taken away. rows: how many each table has. The
    next run, or --recover, completes what was interrupted. Nothing is moved without the lock: JobError when another run
    has taken it.
    """
    staging = staging_of(run_id)
    staged = [name.removeprefix(f"{staging}/") for name in data_files(storage.list(staging))]
    files = Counter(name.split("/")[0] for name in staged)
    journal = {"run_id": run_id, "staged": {folder: files[folder] for folder in FOLDERS}, "rows": rows}
    lock.check()
    if read_journal(storage) is not None:
        raise JobError(f"{storage.path(JOURNAL)} is there already: run it again, which completes that publishing first")
    storage.write(JOURNAL, json.dumps(journal).encode())
    move_by_journal(storage, lock)


def move_by_journal(storage: Any, lock: Lock) -> Optional[str]:
    """Do what a journal says, from wherever the publishing stopped; the run's id, or None without a journal."""
    journal = read_journal(storage)
    if journal is None:
        return None
    staging = staging_of(journal["run_id"])
    lock.check()
    try:
        for _ in storage.replace(staging, journal["staged"]):
            lock.check()
    except FileNotFoundError as error:
        raise JobError(f"{error}: restore it, or delete {storage.path(JOURNAL)} to give that run up") from None
    if journal.get("rows"):  # older versions wrote none
        about = {"run_id": journal["run_id"], "rows": journal["rows"]}
        storage.write(PUBLISHED, json.dumps(about).encode())
    storage.delete([JOURNAL])
    with contextlib.suppress(PlaceError):  # what is left goes after STAGING_DAYS
        storage.discard(staging)
    return journal["run_id"]


def read_journal(storage: Any) -> Optional[dict]:
    """What the journal says, or None without one. Raises JobError for one that is damaged."""
    try:
        text = storage.read(JOURNAL)
    except FileNotFoundError:
        return None
    with contextlib.suppress(ValueError):
        journal = json.loads(text)
        if isinstance(journal, dict) and "run_id" in journal and isinstance(journal.get("staged"), dict):
            return journal
    raise JobError(
        f"{storage.path(JOURNAL)} is damaged: look at what is in {storage.path('_staging')}, and delete it; the next "
        "run writes all tables"
    )


def last_published(storage: Any) -> Optional[dict[str, Any]]:
    """{"run_id": of the run that has published last, "rows": {table: how many}}, or None where that isn't known."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        about = json.loads(storage.read(PUBLISHED))
        if re.fullmatch(RUN_ID_FORM, about["run_id"]):  # it will stand in SQL
            return {"run_id": about["run_id"], "rows": {table: int(about["rows"][table]) for table in TABLES}}
    return None


def check_complete(storage: Any) -> None:
    """Raise UsageError where a run is between two moves, or was killed there: the tables are of two runs."""
    if journal := read_journal(storage):
        raise UsageError(
            f"run {journal['run_id']} has published only some of its tables in {storage.place}: wait until it ends; if "
            f"it was killed, run `python etl.py --recover --output {storage.place}`"
        )


def published(storage: Any) -> dict[str, Any]:
    """last_published of a storage. Raises UsageError where there is none, or a run is between two moves."""
    check_complete(storage)
    if about := last_published(storage):
        return about
    raise UsageError(f"no run has published its tables in {storage.place}: run etl.py with this --output first")


def recover_only(storage: Any) -> str:
    """Complete a publishing that was interrupted, and release the lock of a dead run; returns what was done, a line."""
    there = storage.folders()  # raises PlaceError where there is no such folder or bucket
    if not there and not any(storage.stored(name) for name in (LOCK, JOURNAL)):
        raise UsageError(f"there is nothing in {storage.place}: name the --output of a run")
    with Lock(storage, new_run_id(), take=True) as lock:
        recovered = move_by_journal(storage, lock)
    done = f"finished publishing run {recovered}, which was interrupted" if recovered else "nothing was interrupted"
    return f"{storage.place}: {'; '.join(filter(None, [lock.replaced, done]))}"


def discard_old_staging(storage: Any) -> None:
    """Remove what runs that began more than STAGING_DAYS ago have left in staging, and say so.

    Nothing whose name isn't exactly a run's id is touched, and what can't be removed stays. To be called when no
    journal is left.
    """
    oldest = time.strftime(RUN_TIME, time.gmtime(time.time() - STAGING_DAYS * 86400))
    for name in storage.folders("_staging"):
        if re.fullmatch(RUN_ID_FORM, name) and name < oldest:
            with contextlib.suppress(PlaceError):
                storage.discard(staging_of(name))
                say(f"removed what run {name} left in {storage.path('_staging')}")


# --- Before anything is written ---------------------------------------------------------------------------------------


def check_output(source: str, storage: Any, report: Optional[str] = None, aws: Optional[dict[str, str]] = None) -> None:
    """Raise UsageError or PlaceError when the tables of an input can't or mustn't be written to a storage.

    Input and output may share a folder or a bucket, but no table may lie in a folder of data, and no data where a
    table, the staging or what was rejected goes. Writes nothing that stays. aws: dl.cfg's [AWS], for the report.
    """
    for resolved in (os.path.abspath, os.path.realpath):
        here, there = _parts(source, resolved), _parts(storage.place, resolved)
        data = [part for part in there[len(here) :] if part in DATA_FOLDERS]
        if data and there[: len(here)] == here:
            raise UsageError(f"the output {storage.place} lies in {data[0]} of the input: choose another --output")
        if inner := _own_name(here, there):
            raise UsageError(
                f"the input {source} lies in {storage.path(inner)}, which a run replaces: choose another --output"
            )
    for table, names in zip(TABLES, in_parallel(storage.everything, TABLES)):
        check_names(storage, table, names)
    storage.check_writable([*FOLDERS, "_staging"])
    if report:
        check_report(report, storage, aws or {})


def _parts(place: str, resolved: Callable[[str], str] = os.path.realpath) -> list[str]:
    """A place as the names of its folders."""
    return (place if "://" in place else resolved(place)).rstrip("/").split("/")


def _own_name(parts: list[str], output: list[str]) -> str:
    """Which of the names that runs use in an output a place has, or lies below; empty where it is none."""
    inner = (parts[len(output) :] or [""])[0]
    return inner if parts[: len(output)] == output and inner in OWN_NAMES else ""


def check_names(storage: Any, table: str, names: dict) -> None:
    """Raise UsageError when a file or a folder that lies below a table's folder is none of that table."""
    for name in names:
        *folders, last = name[len(table) + 1 :].split("/")  # of an empty folder the last is empty
        strange = {folder.split("=")[0] for folder in folders} - {*TABLES[table].partitions}
        strange = strange or (last and not last.endswith(".parquet"))
        if strange and not is_hidden(name):
            raise UsageError(
                f"{storage.path(name)} is not of the table {table}, which this run would replace: choose another "
                "--output"
            )


def check_report(report: str, storage: Any, aws: dict[str, str]) -> None:
    """Raise UsageError or PlaceError when a report can't be written, or would lie among the tables."""
    if inner := _own_name(_parts(report), _parts(storage.place)):
        raise UsageError(f"--report {report} lies in {storage.path(inner)}: name another file")
    if is_s3(report):
        if not bucket_and_key(report)[1]:
            raise UsageError(f"--report {report} is a bucket: name an object in it")
        storage_of(os.path.dirname(report), aws).folders()  # the bucket is there
        return
    if os.path.exists(report) and not os.path.isfile(report):
        raise UsageError(f"--report {report} is no file: name one")
    folder = os.path.dirname(report) or "."
    if not os.path.isdir(folder):
        raise UsageError(f"--report {report}: there is no folder {folder}: make it first")
    LocalStorage(folder).check_writable()
