"""A SparkSession, on a laptop and on a cluster.

Only this module uses what isn't public in pyspark and py4j, and each use has a public way beside it or ends in an error
of one line: launch_gateway and SparkContext(gateway=…) (what Java says goes to a file), _jvm and
_jsparkSession with _jrdd (rows of Python as a DataFrame; else createDataFrame), _jsparkSession with
sessionState (what kind of statement a query is), _jsc (S3A's keys, which must not be in Spark's settings), _gateway
(to wait for Java's end, or to make it), _jvm (a database's driver: Spark's own writer has no way to run DDL).
"""

import contextlib
import functools
import locale
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Optional

import pyspark
from py4j.protocol import Py4JError
from pyspark import RDD, SparkConf, SparkContext
from pyspark.errors import ParseException, PySparkException
from pyspark.java_gateway import launch_gateway
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from sparkify import java
from sparkify.aws import aws_session
from sparkify.errors import JobError, UsageError, java_cause
from sparkify.report import say

# The settings that the results or the speed depend on; everything else is the machine's or the cluster's own.
SQL_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # Compressing the cached events costs nearly as much as parsing them again.
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
    # A task writes one or two partitions: with open writers for them it needs no sort by partition.
    "spark.sql.maxConcurrentOutputFileWriters": "100",
    # Java compiles no method above this size. Spark cuts what it generates then: else an event takes twice the time.
    "spark.sql.codegen.hugeMethodLimit": "8000",
    "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",  # few files before many tasks
    # Else Spark sorts all plays before a shuffle, too, to leave out the few that aren't the first of their key.
    "spark.sql.optimizer.windowGroupLimitThreshold": "-1",
    # Else a task writes a file for each of up to 200 partitions, and then joins them: a sixth of 8 M events' time.
    "spark.shuffle.sort.bypassMergeThreshold": "1",
}
SMALL_SETTINGS = {
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.ui.explainMode": "simple",  # of each query, for the user interface, which is off
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.subexpressionElimination.enabled": "false",  # the cache of their values is slow
}


def spark_session(work: Optional[str] = None, small: bool = False, packages: Sequence[str] = ()) -> SparkSession:
    """A SparkSession with the settings that the tables need.

    Under spark-submit, master, memory and cores are the cluster's. Otherwise it is made here: all cores, a quarter of
    the memory (1 to 6 GiB), loopback only. What Java says goes to the file spark.log in the folder work; without work,
    to standard error. small is for an input that the driver reads; a session that is there already isn't made so.
    packages: coordinates of Java's; UsageError where they aren't here yet, and can't be downloaded.
    """
    is_the_callers = SparkSession.getActiveSession() is not None
    settings = dict(SQL_SETTINGS)
    if small and not is_the_callers:
        settings.update(SMALL_SETTINGS)
    if java.by_spark_submit() or is_the_callers:
        return SparkSession.builder.config(map=settings).getOrCreate()
    os.environ["JAVA_HOME"] = home = java.find_java(pyspark.__version__)
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    settings.update(local_settings(home, small, work))
    if packages:
        settings["spark.jars.packages"] = ",".join(packages)
    if work and not SparkContext._gateway:
        start_context(settings, work)
    return SparkSession.builder.config(map=settings).getOrCreate()


def local_settings(home: str, small: bool, work: Optional[str]) -> dict[str, str]:
    """Spark's settings on one machine; work: the folder for its files."""
    umask = os.umask(0)
    os.umask(umask)
    memory = min(6, max(1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 32))
    settings = {
        "spark.app.name": "sparkify-etl",
        "spark.master": "local[*]",
        "spark.driver.memory": f"{memory}g",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # From 32 folders on, a job lists them; here that takes longer.
        "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000",
        # Hadoop's own is 022, whatever the user wants to be private, or a group's.
        "spark.hadoop.fs.permissions.umask-mode": f"{umask:03o}",
        # Without checksum files beside each file.
        "spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
    }
    if small:  # a few seconds leave little to clean; messages below warnings would be made first, and then left out
        settings.update({"spark.cleaner.referenceTracking": "false", "spark.log.level": "WARN"})
        # Of 64 MB for each sort and aggregation, and of 4 MB for each broadcast, only a little would be used.
        settings.update({"spark.buffer.pageSize": "1m", "spark.broadcast.blockSize": "128k"})
    if work:
        options = [*java.java_options(home, small), *java.archive_options(home), f"-XX:ErrorFile={work}/java.log"]
        options.append(f"-Djava.io.tmpdir={work}")  # where it unpacks libraries, which a killed one leaves
        settings["spark.driver.extraJavaOptions"] = shlex.join(options)
        settings["spark.local.dir"] = settings["spark.sql.warehouse.dir"] = work
    return settings


def start_context(settings: dict[str, str], work: str) -> None:
    """Start Java and a SparkContext; what Java says goes to the file spark.log in work.

    A damaged archive of classes crashes Java: then it is started once more, without it. Raises UsageError.
    """
    if not is_locale_utf8():  # then Java reads and writes no names but of ASCII
        os.environ["LC_ALL"] = "C.UTF-8"

    log_path = os.path.join(work, "spark.log")

    def started() -> SparkContext:
        conf = SparkConf().setAll(list(settings.items()))
        with open(log_path, "ab") as log:
            gateway = launch_gateway(conf, {"stdout": log, "stderr": log})
        return SparkContext(conf=conf, gateway=gateway)

    os.environ.setdefault("SPARK_LAUNCHER_OPTS", java.launcher_options())
    try:
        try:
            started()
        except PySparkException:
            options = settings.get("spark.driver.extraJavaOptions", "")
            if java.ARCHIVE_OPTION not in options:
                raise
            kept = [word for word in shlex.split(options) if ".jsa" not in word]
            settings["spark.driver.extraJavaOptions"] = shlex.join(kept)
            started()
            java.remove_archive(options)
    except PySparkException:
        raise UsageError(why_java_failed(settings, log_path)) from None


def is_locale_utf8() -> bool:
    """Whether the locale that the environment names is there, and has all characters."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, "")
        return locale.nl_langinfo(locale.CODESET) == "UTF-8"
    except locale.Error:
        return False
    finally:
        locale.setlocale(locale.LC_ALL, before)


def why_java_failed(settings: dict[str, str], log_path: str) -> str:
    """Why Java didn't start: a package that can't be downloaded, else what it said before it ended."""
    log = Path(log_path).read_text(errors="replace")
    if "spark.jars.packages" in settings and re.search("unresolved dependency|download failed", log, re.I):
        return (
            f"can't download {settings['spark.jars.packages'].replace(',', ' and ')}, which is needed for S3 or a "
            f"database: put its jar, for S3 also that of the AWS SDK it depends on, into {java.spark_jars()}"
        )
    said = [line.strip() for line in log.split("\n") if line.strip() and not re.match(r"\s+at |Picked up", line)]
    told = next((line for line in said if re.search("memory|heap|error|exception", line, re.I)), "")
    return (
        f"Java doesn't start: {told or (said or ['it says nothing'])[-1]}; free some memory, or give it less: "
        'PYSPARK_SUBMIT_ARGS="--driver-memory 1g pyspark-shell"'
    )


@contextlib.contextmanager
def session(work: str, small: bool = False, packages: Sequence[str] = ()) -> Iterator[SparkSession]:
    """The spark_session of a block, which ends with it or with the program, unless the caller has made it.

    The first one ends slowly, as Java leaves its archive: print results before.
    """
    with java_heard(work), java.undisturbed():
        is_the_callers = SparkSession.getActiveSession() is not None
        spark = spark_session(work, small, packages)
        options = spark.conf.get("spark.driver.extraJavaOptions", "")
    process, is_done = java_of(spark), False
    try:
        with java_heard(work):
            yield spark
        is_done = True
    finally:
        if process and process.poll() == -signal.SIGABRT:  # it crashed
            java.remove_archive(options)
        # Java ends with the program, in order: to wait for pyspark's own end would take up to half a second more.
        is_left = is_done and process and is_the_program() and not java.archive_left(options)
        if not (is_the_callers or is_left):
            with contextlib.suppress(Exception):
                stop(spark)


def is_the_program() -> bool:
    """Whether etl.py was started, not imported: then a block of session() is the last work of this process."""
    return os.path.basename(getattr(sys.modules["__main__"], "__file__", "")) == "etl.py"


@contextlib.contextmanager
def java_heard(work: str) -> Iterator[None]:
    """What Spark raises in a block becomes a JobError: its text is asked of Java, which may be gone a moment later."""
    try:
        yield
    except (Py4JError, PySparkException) as error:
        log = "" if java.by_spark_submit() else f"; see {os.path.join(work, 'spark.log')}"
        raise JobError(f"the job failed: {java_cause(error)}{log}") from error


def stop(spark: SparkSession) -> None:
    """End the session; where Java is to leave an archive of its classes, wait until it has, and keep it."""
    archive = java.archive_left(spark.conf.get("spark.driver.extraJavaOptions", ""))
    gateway, process = spark.sparkContext._gateway, java_of(spark)
    spark.stop()
    if not archive or not process:
        return
    say("saving Java's classes, this once, so that later runs start sooner")
    whole = False
    try:
        gateway.shutdown()
        process.stdin.close()
        whole = process.wait(60) == 0
    finally:  # Ctrl-C among the reasons
        forget_java(process)
        java.keep_archive(*archive, whole)


def java_of(spark: SparkSession) -> Optional[subprocess.Popen]:
    """The process of the Java that this program has started; none on a cluster."""
    return getattr(spark.sparkContext._gateway, "proc", None)


def kill_java(spark: SparkSession) -> None:
    """End the session, and at once the Java of this program: a task of a cancelled job may still make a file there."""
    process = java_of(spark)
    with contextlib.suppress(Exception):
        spark.stop()  # else pyspark complains of Java's end in a traceback
    if process:
        forget_java(process)


def forget_java(process: subprocess.Popen) -> None:
    """End a Java, if it hasn't ended by itself, and let pyspark start another when it needs one."""
    process.kill()
    process.wait()
    SparkContext._gateway = SparkContext._jvm = None


# --- What Spark runs on -----------------------------------------------------------------------------------------------


def is_local(spark: SparkSession) -> bool:
    """Whether the executors are in the driver's own process, and share its files."""
    return re.fullmatch(r"local(\[[^,]*(,\d+)?\])?", spark.sparkContext.master) is not None


def use_settings(spark: SparkSession) -> None:
    """Let a session that somebody else has made have the settings that the results depend on, such as its zone."""
    for key, value in SQL_SETTINGS.items():
        if key.startswith("spark.sql."):
            spark.conf.set(key, value)


def size_shuffles(spark: SparkSession, input_bytes: int, small: bool) -> None:
    """Let a shuffle have as many tasks as an input of so many bytes wants: spark.sql.shuffle.partitions."""
    cores = spark.sparkContext.defaultParallelism
    spark.conf.set("spark.sql.shuffle.partitions", 1 if small else max(cores, input_bytes >> 25))


def shuffle_tasks(spark: SparkSession) -> int:
    """How many tasks a shuffle has: see size_shuffles."""
    return int(spark.conf.get("spark.sql.shuffle.partitions"))


def executors_have_boto3(spark: SparkSession) -> bool:
    """Whether the Python of the executors has it."""
    cores = spark.sparkContext.defaultParallelism
    asked = spark.sparkContext.parallelize(["boto3"] * cores, cores)
    return all(asked.map(lambda module: find_spec(module) is not None).collect())


def frame_of(spark: SparkSession, rows: RDD, columns: dict[str, str]) -> DataFrame:
    """Rows, lists of Python's values, as a DataFrame with columns, {name: type}.

    createDataFrame would look at each row in Python once more: 0.2 µs a row, and a second until there are workers.
    """
    schema = struct_of(columns)
    try:
        serde = spark._jvm.SerDeUtil
        in_java = serde.toJavaArray(serde.pythonToJava(rows._jrdd, True)).rdd()
        return DataFrame(spark._jsparkSession.applySchemaToPythonRDD(in_java, schema.json()), spark)
    except (AttributeError, TypeError, Py4JError):
        return spark.createDataFrame(rows, schema, verifySchema=False)


def struct_of(columns: dict[str, str]) -> StructType:
    """Columns, {name: type}, as Spark takes them; as text they would take 20 ms more."""
    schema = StructType()
    for name, kind in columns.items():
        schema.add(name, {"int": "integer", "bigint": "long"}.get(kind, kind))
    return schema


def parse_query(spark: SparkSession, sql: str) -> bool:
    """Whether a statement only asks or looks at the tables. Raises Spark's ParseException where it is none."""
    parser = spark._jsparkSession.sessionState().sqlParser()
    plan = parser.parsePlan(sql)
    if plan.getClass().getSimpleName().startswith(("Describe", "Show", "Explain")):
        return True
    # Spark 4 takes no semicolon and no comment behind a query here.
    for text in (sql, re.sub(r"(\s|;|--[^\n]*(?=\n|$))+$", "", sql)):
        with contextlib.suppress(ParseException):
            parser.parseQuery(text)
            return True
    return False


def jdbc_connection(spark: SparkSession, driver: str, url: str, properties: dict[str, str]) -> Any:
    """A java.sql.Connection, made by the class driver: Java's DriverManager doesn't see the jars that Spark adds.

    Raises Py4JError with what the driver says, UsageError where the class isn't there.
    """
    given = spark._jvm.java.util.Properties()
    for key, value in properties.items():
        given.setProperty(key, value)
    try:
        instance = functools.reduce(getattr, driver.split("."), spark._jvm)()
    except TypeError:  # what isn't there is a package
        raise UsageError(f"Java has no {driver} here: give spark-submit --packages {java.POSTGRES_DRIVER}") from None
    return instance.connect(url, given)


def use_s3a(spark: SparkSession, aws: dict[str, str]) -> None:
    """Let s3:// be S3A where it isn't something else, as on EMR, where nothing is changed.

    It is set in Hadoop's configuration after the start, so that no key is in Spark's, which is shown and logged.
    """
    hadoop = spark._jsc.hadoopConfiguration()
    if hadoop.get("fs.s3.impl"):
        return
    session = aws_session(aws)
    credentials = None if aws.get("anonymous") else session.get_credentials()
    settings = {"fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem"}
    provider = "AnonymousAWSCredentialsProvider"
    if credentials:
        keys = credentials.get_frozen_credentials()
        provider = f"{'Temporary' if keys.token else 'Simple'}AWSCredentialsProvider"
        settings.update({"fs.s3a.access.key": keys.access_key, "fs.s3a.secret.key": keys.secret_key})
        settings.update({"fs.s3a.session.token": keys.token} if keys.token else {})
    settings["fs.s3a.aws.credentials.provider"] = f"org.apache.hadoop.fs.s3a.{provider}"
    settings["fs.s3a.endpoint.region"] = aws.get("region") or session.region_name or "us-east-1"
    if aws.get("endpoint_url"):
        settings["fs.s3a.endpoint"] = aws["endpoint_url"]
        settings["fs.s3a.path.style.access"] = "true"
        settings["fs.s3a.change.detection.mode"] = "none"
    for key, value in settings.items():
        hadoop.set(key, value)
