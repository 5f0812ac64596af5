"""The input: which files there are, how they are shared among tasks, and their records."""

import contextlib
import functools
import gzip
import io
import re
import sys
import threading
import zipfile
import zipimport
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

from pyspark import StorageLevel, cloudpickle
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import sparkify
from sparkify.errors import PlaceError, UsageError
from sparkify.java import by_spark_submit
from sparkify.parallel import in_parallel
from sparkify.places import DATA_FOLDERS, is_hidden, is_s3, literal_path
from sparkify.records import UNREADABLE, Row, is_by_line, rows_in
from sparkify.report import say
from sparkify.schema import RECORDS
from sparkify.session import executors_have_boto3, frame_of, is_local, size_shuffles, use_s3a, use_settings
from sparkify.storage import storage_of

KINDS = {"songs": "song", "logs": "log"}  # kind of records -> how its folders and zips begin
SHARE = 32 << 20  # bytes that a task reads at once; a file of more than two is cut into ranges
BEGINNING = 1 << 20  # bytes of a log that tell whether it has an object a line
OPENING = 64 << 10  # opening a file takes about as long as reading so many bytes
SMALL_INPUT = 64 << 20  # up to this size the driver reads the input: sooner than starting Python workers
SMALL_NUMBER = 4096  # of files, likewise
ZIP_MEMBER = 1 << 30  # a larger member of a zip is refused
ZIP_TOTAL = 64 << 20  # what a zip expands to may be this, or 100 times its size; JSON comes to about 20 times
UNZIPPED = 10  # times as many bytes as a gzip are in it, about
JSON_NAME = re.compile(r"\.(json|jsonl|ndjson)(\.gz)?$")  # names without a point are read, too: listen_events
THREADS = 16  # requests under way at once in a task, or of a kind in the driver; more are no faster
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError)


class File(NamedTuple):
    """A JSON file: its name below the input, its bytes, its name in the zip of that name; or a range of a file."""

    name: str
    size: int
    member: Optional[str] = None
    start: Optional[int] = None


class Input:
    """The song and the log files of a place, and the records in them, which are read once."""

    def __init__(self, storage: Any, files: dict[str, list[File]]) -> None:
        self.storage, self.files = storage, files
        self._ahead: dict[str, Future[list[Row]]] = {}
        self._records: dict[str, DataFrame] = {}
        self.counts: dict[str, Counts] = {}  # of the records that were asked for
        self._locks = {kind: threading.Lock() for kind in files}

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(map(self.size_of, self.files))

    def size_of(self, kind: str) -> int:
        """The bytes of the files of a kind."""
        return sum(file.size for file in self.files[kind])

    @property
    def is_small(self) -> bool:
        """Whether the driver reads the input sooner than tasks would."""
        number = sum(len(files) for files in self.files.values())
        return self.size < SMALL_INPUT and number <= SMALL_NUMBER

    def read_ahead(self) -> None:
        """Begin to read a small input on threads, while Spark starts. Under spark-submit the tasks read."""
        if not self.is_small or by_spark_submit():
            return
        pool = ThreadPoolExecutor(len(self.files))
        for kind, files in self.files.items():
            self._ahead[kind] = pool.submit(lambda *share: list(rows_of(*share)), self.storage, kind, files)
        pool.shutdown(wait=False)

    def records(self, spark: SparkSession, kind: str) -> DataFrame:
        """The records of a kind, 'songs' or 'logs', by schema.RECORDS; counted, and kept for all further jobs.

        From then on a shuffle in this session has as many tasks as the size of this input wants. Raises UsageError
        where a file can't be read.
        """
        with self._locks[kind]:
            if kind not in self._records:
                self._records[kind] = self._read(spark, kind)
            if kind not in self.counts:
                self.counts[kind] = count_records(self._records[kind])
            return self._records[kind]

    def _read(self, spark: SparkSession, kind: str) -> DataFrame:
        use_settings(spark)
        size_shuffles(spark, self.size, self.is_small)
        cloudpickle.register_pickle_by_value(sparkify)  # the executors may have no such package
        files = self.files[kind]
        if kind in self._ahead:
            rows = spark.sparkContext.parallelize(self._ahead[kind].result(), 1)
            # Kept as they are: a cache of columns would compile code for itself. Spark knows that it is one partition.
            return frame_of(spark, rows, RECORDS[kind]).coalesce(1).localCheckpoint(False)
        if is_s3(self.storage.place) and not is_local(spark) and not executors_have_boto3(spark):
            use_s3a(spark, self.storage.aws)
            rows = read_by_hadoop(spark, self.storage, kind, files)
        else:
            shares = shares_of(self.storage, files, spark.sparkContext.defaultParallelism)
            read = functools.partial(rows_of, self.storage, kind)
            rows = spark.sparkContext.parallelize(shares, len(shares)).flatMap(read)
        return frame_of(spark, rows, RECORDS[kind]).persist(StorageLevel.MEMORY_AND_DISK)


def find_input(place: str, aws: Optional[dict[str, str]] = None, needed: Collection[str] = tuple(KINDS)) -> Input:
    """The Input at a place. Raises UsageError where there is no file of a kind that is needed, or a zip can't be read.

    Warns of files in the folders and zips of songs and logs that are left out.
    """
    storage = storage_of(place, aws)
    sizes = storage.list()
    files: dict[str, list[File]] = {kind: [] for kind in KINDS}
    left_out = []
    for kind, word in KINDS.items():
        for file in files_of(storage, sizes, word):
            if is_json(file.member or file.name):
                files[kind].append(file)
            else:
                left_out.append(storage.path(f"{file.name}!{file.member}" if file.member else file.name))
    if left_out:
        say(
            f"etl.py: warning: files skipped: {len(left_out):,}, for example {min(left_out)}; only .json, .jsonl and "
            ".ndjson files, also with .gz, and names without an extension are read"
        )
    for kind in needed:
        if not files[kind]:
            word, is_inside = KINDS[kind], place.rstrip("/").rpartition("/")[2] in DATA_FOLDERS
            raise UsageError(
                f"no {word} JSON in {place}: it needs {word}_data/**/*.json, or {word}-data.zip with JSON in it"
                f"{'; name the folder above it' if is_inside else ''}"
            )
    return Input(storage, files)


def opened(input_data: Union[str, Path, Input], needed: Collection[str] = tuple(KINDS)) -> Input:
    """An Input, or the one at a place: see find_input."""
    return input_data if isinstance(input_data, Input) else find_input(str(input_data), needed=needed)


def files_of(storage: Any, sizes: dict[str, int], word: str) -> list[File]:
    """The files in the folders and zips of a word of KINDS, in the order of their names, among an input's."""
    folders = {f"{word}_data", f"{word}-data"}
    files = [
        File(name, size * (UNZIPPED if name.endswith(".gz") else 1))
        for name, size in sizes.items()
        if folders & set(name.split("/")[:-1])
    ]
    for folder in folders:
        if f"{folder}.zip" in sizes:
            files += zip_members(storage, f"{folder}.zip")
    return sorted(files, key=lambda file: (file.name, file.member or ""))


def is_json(name: str) -> bool:
    """Whether a file, an object or a member of a zip is one to read, by its name."""
    last = name.rpartition("/")[2]
    return JSON_NAME.search(last) is not None or "." not in last


def zip_members(storage: Any, name: str) -> list[File]:
    """The files in a zip, without the junk that file managers add. Raises UsageError where one can't be read."""
    path = storage.path(name)
    try:
        with storage.open(name) as file, zipfile.ZipFile(file) as archive:
            visible = [entry for entry in archive.infolist() if not (entry.is_dir() or is_hidden(entry.filename))]
    except DAMAGED as error:
        raise UsageError(f"can't read {path}: {error}; make the zip again, or unpack it and remove it") from None
    entries = [entry for entry in visible if is_json(entry.filename)]
    names = Counter(entry.filename for entry in entries)
    expanded = sum(entry.file_size for entry in entries)
    for entry in entries:
        if entry.flag_bits & 1:
            raise UsageError(f"{path}: {entry.filename} is encrypted; make the zip again without a password")
        if entry.file_size > ZIP_MEMBER:
            raise UsageError(
                f"{path}: {entry.filename} would expand to {entry.file_size:,} bytes, more than the {ZIP_MEMBER:,} "
                "that are read from a zip; unpack the zip and remove it"
            )
        if names[entry.filename] > 1:
            raise UsageError(f"{path}: {entry.filename} is in it more than once; make the zip again")
    if expanded > max(ZIP_TOTAL, 100 * sum(entry.compress_size for entry in entries)):
        raise UsageError(
            f"{path} would expand to {expanded:,} bytes, more than 100 times its size, as no log or catalogue does; if "
            "it is one, unpack the zip and remove it"
        )
    return [File(name, entry.file_size, entry.filename) for entry in visible]


# --- Reading: on the driver and in tasks ------------------------------------------------------------------------------


def shares_of(storage: Any, files: list[File], cores: int) -> list[list[File]]:
    """The files as shares, one a task: of about SHARE bytes, of which some are ranges of a large file."""
    large = [file for file in files if file.size > 2 * SHARE]
    ranges = dict(zip(large, in_parallel(functools.partial(ranges_of, storage), large)))
    parts = [part for file in files for part in ranges.get(file, [file])]
    weights = [part.size + OPENING for part in parts]
    most = min(SHARE, sum(weights) // cores + 1)
    shares: list[list[File]] = [[]]
    taken = 0
    for part, weight in zip(parts, weights):
        if shares[-1] and taken + weight > most:
            shares.append([])
            taken = 0
        shares[-1].append(part)
        taken += weight
    return shares


def ranges_of(storage: Any, file: File) -> list[File]:
    """A large file as ranges, where it has whole objects on its lines; else as it is."""
    if file.member or file.name.endswith(".gz"):
        return [file]
    with readable(storage.path(file.name)):
        beginning = storage.read(file.name, 0, BEGINNING)
    if not is_by_line(beginning):
        return [file]
    starts = range(0, file.size, SHARE)
    return [file._replace(start=start, size=min(SHARE, file.size - start)) for start in starts]


def rows_of(storage: Any, kind: str, files: list[File]) -> Iterator[Row]:
    """The rows of the records in files: see records.rows_in.

    A Python worker is kept from reading the directory of pyspark.zip again for each task. From Python 3.10 to 3.12 that
    takes 0.1 s: pyspark calls importlib.invalidate_caches before a task.
    """
    for finder in list(sys.path_importer_cache.values()):  # another thread may import something
        if isinstance(finder, zipimport.zipimporter):
            finder.invalidate_caches = int  # does nothing
    return rows_in(kind, contents(storage, files))


def contents(storage: Any, files: list[File]) -> Iterator[tuple[str, bytes]]:
    """(source, content) of each file; of a large one that is compressed, in pieces that end where a line does.

    Raises PlaceError for what can't be read.
    """
    plain = [file for file in files if not file.member]
    with ThreadPoolExecutor(THREADS) as pool:
        for file, content in zip(plain, pool.map(functools.partial(content_of, storage), plain)):
            path = storage.path(file.name)
            if file.name.endswith(".gz"):
                with readable(path):
                    yield from pieces(path, gzip.GzipFile(fileobj=io.BytesIO(content)))
            else:
                yield path, content
    for name in sorted({file.name for file in files if file.member}):
        yield from members(storage, name, {file.member for file in files if file.name == name})


def content_of(storage: Any, file: File) -> bytes:
    """The bytes of a file; of a range, the objects that begin in it: a range begins where a line begins with {."""
    if file.start is None:
        with readable(storage.path(file.name)):
            return storage.read(file.name)
    with readable(storage.path(file.name)), storage.open(file.name) as lines:
        if file.start:
            lines.seek(file.start - 1)
            lines.readline()
            up_to_an_object(lines)
        rest = file.start + file.size - lines.tell()
        if rest <= 0:
            return b""
        # Its last byte by readline: where that ends a line, the next line is the next range's.
        return lines.read(rest - 1) + lines.readline() + up_to_an_object(lines)


@contextlib.contextmanager
def readable(source: str) -> Iterator[None]:
    """What is wrong with a file that the block reads becomes a PlaceError."""
    try:
        yield
    except FileNotFoundError:
        hint = "run it again while nobody changes the input"
        raise PlaceError(source, "it was there when the run began, and is gone", hint) from None
    except DAMAGED as error:
        raise PlaceError(source, f"it is damaged: {str(error)[:200]}", "make it again, or remove it") from None


def up_to_an_object(lines: Any) -> bytes:
    """The lines up to the next that begins with {, which is read next."""
    passed = []
    while lines.peek(1)[:1] not in (b"", b"{"):
        passed.append(lines.readline())
    return b"".join(passed)


def members(storage: Any, name: str, wanted: set) -> Iterator[tuple[str, bytes]]:
    """As contents, of members of a zip: as they lie in it, so that it is read forwards, once."""
    path = storage.path(name)
    with readable(path), storage.open(name) as file, zipfile.ZipFile(file) as archive:
        for member in [entry.filename for entry in archive.infolist() if entry.filename in wanted]:
            source = f"{path}!{member}"
            with readable(source), archive.open(member) as content:
                inner = gzip.GzipFile(fileobj=content) if member.endswith(".gz") else content
                yield from pieces(source, inner)


def pieces(source: str, file: Any) -> Iterator[tuple[str, bytes]]:
    """(source, content) of a compressed file, in pieces as the ranges of a large one."""
    piece = file.read(SHARE) + file.readline()
    if not is_by_line(piece[:BEGINNING]):
        piece += file.read()
    yield source, piece + up_to_an_object(file)
    while piece := file.read(SHARE) + file.readline():
        yield source, piece + up_to_an_object(file)


def read_by_hadoop(spark: SparkSession, storage: Any, kind: str, files: list[File]) -> Any:
    """The rows of files where the executors lack boto3: Hadoop reads the bytes for the same functions."""
    if any(file.member or file.name.endswith(".gz") for file in files):
        raise UsageError(
            "the executors can't read a zip or a gzip on S3 without boto3: install it there, or unpack the files"
        )
    paths = [literal_path(storage.path(file.name)) for file in files]
    found = spark.read.format("binaryFile").load(paths).select("path", "content")

    def rows(part: Iterator[Any]) -> Iterator[Row]:
        return rows_in(kind, ((file.path, bytes(file.content)) for file in part))

    return found.rdd.mapPartitions(rows)


# --- Counting ---------------------------------------------------------------------------------------------------------


class Counts(NamedTuple):
    """The records of a kind: those that are used, events that are no plays, those that are rejected by reason.

    last: of the plays, the largest ts.
    """

    used: int
    others: int
    reasons: dict[str, int]
    last: Optional[int] = None

    @property
    def rejected(self) -> int:
        return sum(self.reasons.values())

    @property
    def total(self) -> int:
        return self.used + self.others + self.rejected


def count_records(records: DataFrame) -> Counts:
    """The Counts of records; reads them. Raises UsageError where a file can't be read."""
    found = records.groupBy("reason").agg(
        F.count("*").alias("rows"),
        F.count("others").alias("counted"),
        F.sum("others").alias("others"),
        F.max("ts" if "ts" in records.columns else "others").alias("last"),
    )
    groups = {group.reason: group for group in found.collect()}
    if UNREADABLE in groups:
        file = records.where(F.col("reason") == UNREADABLE).first()
        raise UsageError(f"can't read {file.source}: {file.raw}")
    good = groups.pop(None, None)
    reasons = {reason: group.rows for reason, group in sorted(groups.items())}
    if good is None:
        return Counts(0, 0, reasons)
    return Counts(good.rows - good.counted, good.others or 0, reasons, good.last)
