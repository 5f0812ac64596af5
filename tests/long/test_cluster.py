"""The step's own command line on Spark clusters of several processes: one that the tests start, and local-cluster.

As on EMR, the cluster knows s3:// and has the keys, and its nodes have neither this folder nor the module etl.
What differs: the driver is here, as Spark's own clusters take no Python program for their nodes.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import oracle
import pyspark
import pytest
from dirty import dump, event, song, write_input
from s3 import client_of, contents, downloaded, free_port, put, serving
from tables import COLUMNS, FOR_SECONDS, ROOT, assert_tables, hadoop_jar, until

from sparkify.config import Settings
from sparkify.emr import code_files, spark_step
from sparkify.java import find_java, s3a_packages
from sparkify.report import summary

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server"), str(ROOT / "tests/bench/s3_server.py"), "PORT", "0") as address:
        yield address


def s3a_classpath():
    """The jars of S3A, as they are on every node of EMR's."""
    if not s3a_packages():
        return ""
    folder = hadoop_jar("hadoop-aws").parent
    names = ("org.apache.hadoop_hadoop-aws-", "org.wildfly", "com.amazonaws_aws-java-sdk-bundle", "software.amazon")
    return ":".join(str(path) for path in folder.glob("*.jar") if path.name.startswith(names))


@pytest.fixture(scope="module")
def nodes(endpoint, tmp_path_factory):
    """(environment, folder) of the processes of a cluster: a SPARK_HOME of its own, keys, nothing of this project."""
    folder = tmp_path_factory.mktemp("nodes")
    home, conf, elsewhere = folder / "spark", folder / "conf", folder / "elsewhere"
    for path in (home, conf, elsewhere, folder / "tmp"):
        path.mkdir()
    for path in Path(pyspark.__file__).parent.iterdir():
        (home / path.name).symlink_to(path)
    classpath = s3a_classpath()
    settings = {
        "spark.driver.extraClassPath": classpath,
        "spark.executor.extraClassPath": classpath,
        "spark.executor.memory": "1g",
        "spark.ui.enabled": "false",
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.hadoop.fs.s3a.endpoint": endpoint,
        "spark.hadoop.fs.s3a.endpoint.region": "us-east-1",
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.change.detection.mode": "none",
    }
    lines = [f"{key} {value}\n" for key, value in settings.items() if value]
    (conf / "spark-defaults.conf").write_text("".join(lines))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(elsewhere),
        "JAVA_HOME": find_java(pyspark.__version__),
        "SPARK_HOME": str(home),
        "SPARK_CONF_DIR": str(conf),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "TMPDIR": str(folder / "tmp"),
        **FOR_SECONDS,
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLEEXAMPLE11",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": endpoint,
    }
    return environment, elsewhere


@contextlib.contextmanager
def spark_class(nodes, log, *command):
    environment, folder = nodes
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [f"{environment['SPARK_HOME']}/bin/spark-class", *command],
            **{"cwd": folder, "env": environment, "stdout": output, "stderr": output},
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def master(nodes, tmp_path_factory):
    """(The address of a cluster with two workers of one core, their process ids, their logs)."""
    logs = tmp_path_factory.mktemp("cluster")
    port = str(free_port())
    address = f"spark://127.0.0.1:{port}"
    listening = ("--host", "127.0.0.1", "--webui-port", "0")
    with contextlib.ExitStack() as stack:
        command = ("org.apache.spark.deploy.master.Master", *listening, "--port", port)
        stack.enter_context(spark_class(nodes, logs / "master", *command))
        until(lambda: "I have been elected leader" in (logs / "master").read_text())
        pids = []
        for name in ("one", "two"):
            resources = ("--cores", "1", "--memory", "1g", "--work-dir", str(logs / name))
            command = ("org.apache.spark.deploy.worker.Worker", *listening, *resources, address)
            pids.append(stack.enter_context(spark_class(nodes, logs / f"log-{name}", *command)).pid)
        until(lambda: (logs / "master").read_text().count("Registering worker") == 2)
        yield address, pids, [logs / f"log-{name}" for name in ("one", "two")]


@pytest.fixture(scope="module")
def source(endpoint, tmp_path_factory):
    """An input in s3://music: songs, a small log file and a large one, which Hadoop's S3A reads; its local copy."""
    folder = tmp_path_factory.mktemp("source")
    songs = [song(song_id=f"S{number}", title=f"Title {number}", year=number % 3) for number in range(30)]
    write_input(folder, songs, [event(itemInSession=number, song=f"Title {number % 40}") for number in range(10_000)])
    hours = [event(itemInSession=number, sessionId=7, ts=1541105830796 + number * 3_600_000) for number in range(2000)]
    (folder / "log_data/more é=1").mkdir()
    (folder / "log_data/more é=1/a & b.json").write_bytes(b"\n".join([*map(dump, hours), b"{"]))
    files = {f"in/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    put(client_of(endpoint), "music", files)
    return folder


def submission(nodes, endpoint, bucket, master):
    """The process of the step's command line, with the code in its place."""
    put(
        client_of(endpoint),
        bucket,
        {**{f"out/_code/0/{name}": it for name, it in code_files().items()}, "out/of somebody": b"x"},
    )
    settings = Settings("s3://music/in", f"s3://{bucket}/out", None, 0.01, cluster="")
    step = spark_step(settings, f"s3://{bucket}/out/_code/0", f"s3://{bucket}/out/_reports/0.json", 2)
    program, *words = step["HadoopJarStep"]["Args"]
    words[words.index("cluster")] = "client"
    environment, folder = nodes
    command = [f"{environment['SPARK_HOME']}/bin/{program}", "--master", master, *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def assert_result(endpoint, bucket, source, folder, stdout, stderr):
    """The oracle's tables and the report are there, nothing else, and no key was shown."""
    objects = contents(client_of(endpoint), bucket, "out/")
    names = {key.split("/")[1] for key in objects}
    assert names == {*COLUMNS, "_rejected", "_reports", "_code", "_published.json", "of somebody"}
    lake = downloaded(client_of(endpoint), bucket, "out/", folder)
    assert_tables(lake, oracle.five_tables(source))
    # Spark sends both outputs of a Python program to standard output.
    assert stdout.endswith("\n" + summary(json.loads(objects["out/_reports/0.json"])) + "\n")
    assert "warning" not in stdout
    assert SECRET not in stdout + stderr


def test_the_step_gives_the_oracles_tables_on_a_cluster(nodes, endpoint, source, tmp_path):
    process = submission(nodes, endpoint, "local-cluster", "local-cluster[2,1,1024]")
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr[-5000:]
    assert_result(endpoint, "local-cluster", source, tmp_path, stdout, stderr)


def executors(workers):
    """The process ids of the executors that workers have started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            parent = int(re.search(r"PPid:\s+(\d+)", status.read_text()).group(1))
            if parent in workers and b"CoarseGrainedExecutorBackend" in (status.parent / "cmdline").read_bytes():
                found.append(int(status.parent.name))
    return found


def test_an_executor_killed_halfway_changes_no_table(nodes, endpoint, source, master, tmp_path):
    address, workers, logs = master
    process = submission(nodes, endpoint, "killed", address)
    log = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr))
    reader.start()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "  read logs" in line:
            os.kill(executors(workers)[0], signal.SIGKILL)
    process.wait(600)
    reader.join()
    stdout, stderr = "".join(lines), "".join(log)
    assert process.returncode == 0, stderr[-5000:]
    assert "exited with code 137" in "".join(path.read_text() for path in logs)
    assert_result(endpoint, "killed", source, tmp_path, stdout, stderr)
