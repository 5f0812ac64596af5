"""A real HDFS of one namenode and one datanode, from the package of Hadoop that Spark's own Hadoop lacks."""

import contextlib
import subprocess
import time
from pathlib import Path

import pyspark
from tables import hadoop_jar
from test_s3 import free_port

import etl

JARS = Path(pyspark.__file__).parent / "jars"
NODES = "org.apache.hadoop.hdfs.server"
LOG = """rootLogger.level=info
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%m%n%throwable
"""


@contextlib.contextmanager
def serving_hdfs(folder):
    """Run HDFS with its data in a folder; gives its address, hdfs://…"""
    address = f"hdfs://127.0.0.1:{free_port()}"
    core = {"fs.defaultFS": address}
    hdfs = {
        "dfs.replication": "1",
        "dfs.namenode.name.dir": f"file://{folder}/name",
        "dfs.datanode.data.dir": f"file://{folder}/data",
        "dfs.namenode.http-address": "127.0.0.1:0",
        **dict.fromkeys(("dfs.datanode.address", "dfs.datanode.http.address"), "127.0.0.1:0"),
        "dfs.datanode.ipc.address": "127.0.0.1:0",
    }
    for name, settings in (("core", core), ("hdfs", hdfs)):
        entries = [f"<property><name>{key}</name><value>{value}</value></property>" for key, value in settings.items()]
        (folder / f"{name}-site.xml").write_text(f"<configuration>{''.join(entries)}</configuration>")
    (folder / "log4j2.properties").write_text(LOG)
    there = "org.apache.hadoop:hadoop-client-runtime,org.apache.hadoop:hadoop-client-api"
    servers = hadoop_jar("hadoop-client-minicluster", "--exclude-packages", there)
    java = f"{etl.find_java(pyspark.__version__)}/bin/java"
    classpath = f"{folder}:{servers}:{JARS}/*"
    command = [java, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classpath]
    namenode, datanode = f"{NODES}.namenode.NameNode", f"{NODES}.datanode.DataNode"
    subprocess.run([*command, namenode, "-format", "-nonInteractive"], check=True, capture_output=True, cwd=folder)
    log = folder / "log"
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(open(log, "wb"))
        for node in (namenode, datanode):
            process = stack.enter_context(subprocess.Popen([*command, node], cwd=folder, stdout=output, stderr=output))
            stack.callback(process.kill)
        for _ in range(600):
            if "successfully registered with NN" in log.read_text():
                break
            time.sleep(0.1)
        else:
            raise AssertionError(log.read_text()[-5000:])
        yield address


def _copied(spark, source, target):
    (here, path), (there, _) = (etl._file_system(spark, place) for place in (source, target))
    configuration = spark._jsc.hadoopConfiguration()
    spark._jvm.org.apache.hadoop.fs.FileUtil.copy(here, path(source), there, path(target), False, configuration)


def put(spark, folder, place):
    """Copy a local folder to a place on HDFS."""
    _copied(spark, f"file://{folder}", place)


def fetched(spark, place, folder):
    """A place on HDFS as a local folder."""
    _copied(spark, place, f"file://{folder}")
    return folder
