"""The jars that Spark lacks: which package has them, where they are once it is downloaded."""

import os
import pwd
from pathlib import Path

import pyspark

from sparkify.java import by_spark_submit, spark_jars
from sparkify.report import say

POSTGRES_DRIVER = "org.postgresql:postgresql:42.7.8"


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
