"""EMR: etl.py against moto's server, whose clusters the tests drive; long/test_cluster.py has the step on real ones.

moto runs no step: a thread of the test sets the states, and what moto can't say a small proxy before it says.
"""

import contextlib
import gzip
import hashlib
import io
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile

import boto3
import pytest
from botocore.validate import ParamValidator
from moto.backends import get_backend
from moto.server import ThreadedMotoServer
from proxy import Api
from s3 import KEY_ID, SECRET, contents, free_port, put, write_config
from tables import ETL, environment, until

import etl
from sparkify import emr
from sparkify.config import EMR_DEFAULTS, Settings, read_settings
from sparkify.places import bucket_and_key
from sparkify.report import summary
from sparkify.schema import TABLES

pytestmark = pytest.mark.usefixtures("no_aws_from_outside")

ACCOUNT, REGION = "123456789012", "us-east-1"
INPUT, OUTPUT = "s3://music/in", "s3://lake/out"
REPORT = {
    "tables": {name: {"rows": 1200, "files": 1, "bytes": 5, "path": f"{OUTPUT}/{name}"} for name in TABLES},
    "input": {"songs": {"rejected": 3, "reasons": {"no title": 3}}, "logs": {"rejected": 0, "reasons": {}}},
}


@pytest.fixture(scope="module")
def moto():
    """The address of moto's server in this process, whose objects the tests can change."""
    port = free_port()  # moto for Python 3.9 doesn't say which one it takes
    server = ThreadedMotoServer("127.0.0.1", port)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


def client_of(service, address):
    return boto3.client(service, REGION, endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b")


@pytest.fixture
def aws(moto, tmp_path, monkeypatch):
    """A proxy before an account with an input, the default roles and nothing else; dl.cfg names it; polls are quick."""
    urllib.request.urlopen(urllib.request.Request(f"{moto}/moto-api/reset", method="POST")).close()
    s3, iam = client_of("s3", moto), client_of("iam", moto)
    put(s3, "music", {"in/song_data/a.json": b"{}", "in/log_data/a.json": b"{}"})
    s3.create_bucket(Bucket="lake")
    iam.create_role(RoleName="EMR_DefaultRole", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="EMR_EC2_DefaultRole")
    proxy = Api(moto)
    denied = 400, {"__type": "AccessDeniedException", "Message": "not for you"}
    proxy.answers = dict.fromkeys(("GetProducts", "GetServiceQuota"), lambda _: denied)
    # moto for Python 3.9 doesn't know the newest.
    releases = {"ReleaseLabels": [EMR_DEFAULTS["release"]]}
    proxy.answers["ListReleaseLabels"] = lambda _: (200, releases)
    proxy.s3, proxy.iam, proxy.emr = s3, iam, client_of("emr", moto)
    write_config(tmp_path, proxy.address)
    monkeypatch.setattr(emr, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(emr, "LOG_SECONDS", 0)
    yield proxy
    proxy.close()


def clusters():
    return get_backend("emr")[ACCOUNT][REGION].clusters


@contextlib.contextmanager
def driving(drive):
    """Meanwhile, call drive(the first cluster with a step that is polled) in a thread."""
    failure = []

    def work():
        try:
            until(lambda: clusters())
            drive(next(iter(clusters().values())))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()
    if failure:
        raise failure[0]


def put_report(aws, cluster):
    """The report that a cluster's last step is to write."""
    arguments = cluster.steps[-1].args
    bucket, key = bucket_and_key(arguments[arguments.index("--report") + 1])
    aws.s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(REPORT).encode())


def complete(aws, cluster):
    """What EMR and the step do, each state until it was polled."""
    for state in ("STARTING", "BOOTSTRAPPING", "RUNNING"):
        cluster.state = state
        cluster.steps[-1].state = "RUNNING" if state == "RUNNING" else "PENDING"
        polls = len(aws.parameters("DescribeStep"))
        until(lambda polls=polls: len(aws.parameters("DescribeStep")) > polls + 1)
    put_report(aws, cluster)
    cluster.steps[-1].state, cluster.state = "COMPLETED", "TERMINATING"


def run(*arguments, capsys):
    status = etl.main([*arguments, "--output", OUTPUT])
    stdout, stderr = capsys.readouterr()
    assert "Traceback" not in stderr
    assert SECRET not in stdout + stderr
    return status, stdout, stderr


def refused(aws, capsys, *arguments):
    """A run that is refused before anything is started; its one line."""
    status, stdout, stderr = run("--emr", *(arguments or ("--input", INPUT)), capsys=capsys)
    assert (status, stdout) == (2, ""), stderr
    assert clusters() == {}
    line = stderr.splitlines()[-1]
    assert line.startswith("etl.py: ")
    return line


# ---- From run_job_flow to the report ---------------------------------------------------------------------


def test_a_run_from_the_upload_to_the_summary(aws, capsys, tmp_path):
    write_config(tmp_path, aws.address, "[EMR]\nWorkers = 3\nSUBNET = subnet-1\nTAGS = team=data, cost = 7\n")
    with driving(lambda cluster: complete(aws, cluster)):
        status, stdout, stderr = run("--emr", "--input", INPUT, "--report", "report.json", capsys=capsys)
    assert (status, stdout) == (0, summary(REPORT) + "\n"), stderr
    assert json.loads((tmp_path / "report.json").read_text()) == REPORT
    states = re.findall(r"\d s  cluster (\w+), step (\w+)", stderr)
    assert states.index(("BOOTSTRAPPING", "PENDING")) < states.index(("RUNNING", "RUNNING"))
    (asked,) = aws.parameters("RunJobFlow")
    assert asked["ReleaseLabel"] == "emr-7.14.0"
    assert (asked["ServiceRole"], asked["JobFlowRole"]) == ("EMR_DefaultRole", "EMR_EC2_DefaultRole")
    assert asked["Instances"]["KeepJobFlowAliveWhenNoSteps"] is False
    assert asked["AutoTerminationPolicy"] == {"IdleTimeout": 3600}
    assert asked["Instances"]["Ec2SubnetId"] == "subnet-1"
    assert [(group["InstanceRole"], group["InstanceCount"]) for group in asked["Instances"]["InstanceGroups"]] == [
        ("MASTER", 1),
        ("CORE", 3),
    ]
    assert {tag["Key"]: tag["Value"] for tag in asked["Tags"]} == {"Name": "sparkify-etl", "team": "data", "cost": "7"}
    (step,) = asked["Steps"]
    words = step["HadoopJarStep"]["Args"]
    code = f"{OUTPUT}/_code/{hashlib.sha256(b''.join(emr.code_files().values())).hexdigest()[:16]}"
    assert words[:5] == ["spark-submit", "--deploy-mode", "cluster", "--py-files", f"{code}/sparkify.zip"]
    assert "spark.default.parallelism=12" in words  # 3 m5.xlarge
    at = words.index(f"{code}/etl.py")
    assert words[at + 1 : at + 5] == ["--input", INPUT, "--output", OUTPUT]
    assert asked["BootstrapActions"][0]["ScriptBootstrapAction"]["Path"] == f"{code}/install_boto3.sh"
    uploaded = contents(aws.s3, "lake", "out/_code")
    assert uploaded == {f"{code}/{name}".replace("s3://lake/", ""): it for name, it in emr.code_files().items()}


def test_the_code_for_a_cluster_is_the_job_its_package_and_the_bootstrap_action():
    files = emr.code_files()
    assert files["etl.py"] == ETL.read_bytes()
    with zipfile.ZipFile(io.BytesIO(files["sparkify.zip"])) as package:
        found = {name: package.read(name) for name in package.namelist()}
    assert found == {f"sparkify/{path.name}": path.read_bytes() for path in ETL.with_name("sparkify").glob("*.py")}
    assert emr.code_files() == files


def test_no_key_is_sent_to_the_cluster(aws, capsys):
    with driving(lambda cluster: complete(aws, cluster)):
        assert run("--emr", "--input", INPUT, capsys=capsys)[0] == 0
    sent = json.dumps(aws.asked).encode() + b"".join(contents(aws.s3, "lake").values())
    assert b"RunJobFlow" in sent
    assert SECRET.encode() not in sent
    assert KEY_ID.encode() not in sent


def test_what_it_costs_is_said_where_the_price_list_says_it(aws, capsys):
    prices = {"AmazonEC2": "0.1920000000", "ElasticMapReduce": "0.0480000000"}

    def price_list(request):
        dimension = {"unit": "Hrs", "pricePerUnit": {"USD": prices[request["ServiceCode"]]}}
        return 200, {"PriceList": [json.dumps({"terms": {"OnDemand": {"x": {"priceDimensions": {"y": dimension}}}}})]}

    aws.answers["GetProducts"] = price_list
    with driving(lambda cluster: complete(aws, cluster)):
        _, _, stderr = run("--emr", "--input", INPUT, capsys=capsys)
    assert "starting 1 + 2 m5.xlarge with emr-7.14.0 in us-east-1: about 0.72 USD an hour" in stderr
    filters = {entry["Field"]: entry["Value"] for entry in aws.parameters("GetProducts")[0]["Filters"]}
    assert (filters["instanceType"], filters["regionCode"]) == ("m5.xlarge", "us-east-1")


def test_a_cost_that_nobody_says_is_not_known(aws, capsys):
    with driving(lambda cluster: complete(aws, cluster)):
        _, _, stderr = run("--emr", "--input", INPUT, capsys=capsys)
    assert "its cost isn't known" in stderr


def test_a_cluster_that_runs_gets_the_step_and_stays(aws, capsys):
    instances = {"KeepJobFlowAliveWhenNoSteps": True, "MasterInstanceType": "m5.xlarge", "InstanceCount": 1}
    mine = aws.emr.run_job_flow(Name="mine", Instances=instances, LogUri="s3n://logs/x/")["JobFlowId"]

    def drive(cluster):
        until(lambda: cluster.steps)
        put_report(aws, cluster)
        cluster.steps[0].state = "COMPLETED"

    with driving(drive):
        status, stdout, stderr = run("--emr-cluster", mine, "--input", INPUT, capsys=capsys)
    assert (status, stdout) == (0, summary(REPORT) + "\n"), stderr
    (asked,) = aws.parameters("AddJobFlowSteps")
    assert asked["Steps"][0]["ActionOnFailure"] == "CONTINUE"
    assert not aws.parameters("RunJobFlow")
    assert clusters()[mine].state != "TERMINATED"


def test_throttled_polls_are_survived(aws, capsys):
    refusals = iter([True] * 3)
    throttled = 400, {"__type": "ThrottlingException", "Message": "Rate exceeded"}
    aws.answers["DescribeStep"] = lambda _: throttled if next(refusals, False) else None
    with driving(lambda cluster: complete(aws, cluster)):
        status, _, stderr = run("--emr", "--input", INPUT, capsys=capsys)
    assert status == 0, stderr
    assert next(refusals, None) is None


def test_what_may_not_be_asked_is_said_and_passed_over(aws, capsys):
    aws.answers["ListReleaseLabels"] = aws.answers["GetProducts"]
    with driving(lambda cluster: complete(aws, cluster)):
        status, _, stderr = run("--emr", "--input", INPUT, capsys=capsys)
    assert status == 0, stderr
    for what in ("the releases", "the quota of vCPUs", "the price"):
        assert f"AWS doesn't tell {what}: AccessDeniedException: not for you" in stderr


# ---- What is wrong before anything is started ------------------------------------------------------------


def test_without_the_roles_one_line_says_how_to_make_them(aws, capsys):
    aws.iam.delete_instance_profile(InstanceProfileName="EMR_EC2_DefaultRole")
    line = refused(aws, capsys)
    assert "instance profile EMR_EC2_DefaultRole" in line
    assert "aws emr create-default-roles" in line
    aws.iam.delete_role(RoleName="EMR_DefaultRole")
    assert "service role EMR_DefaultRole" in refused(aws, capsys)


def test_an_unknown_release_is_refused(aws, capsys, tmp_path):
    write_config(tmp_path, aws.address, "[EMR]\nRELEASE = emr-99.0.0\n")
    assert "emr-99.0.0 in us-east-1" in refused(aws, capsys)


@pytest.mark.parametrize("workers", ["0", "-1", "two", "2.5"])
def test_a_number_of_workers_that_is_none_is_refused(aws, capsys, tmp_path, workers):
    write_config(tmp_path, aws.address, f"[EMR]\nWORKERS = {workers}\n")
    assert f"WORKERS is {workers}" in refused(aws, capsys)


def test_a_quota_that_is_too_low_is_said(aws, capsys):
    aws.answers["GetServiceQuota"] = lambda _: (200, {"Quota": {"Value": 5.0}})
    line = refused(aws, capsys)
    assert "3 m5.xlarge have 12 vCPUs, and the quota in us-east-1 is 5" in line
    assert f"--quota-code {emr.STANDARD_VCPUS}" in line


def test_what_emr_says_against_the_cluster_is_one_line(aws, capsys):
    message = "The subnet configuration was invalid: The subnet ID 'subnet-1' does not exist"
    aws.answers["RunJobFlow"] = lambda _: (400, {"__type": "ValidationException", "Message": message})
    assert message in refused(aws, capsys)


def test_a_missing_permission_is_named(aws, capsys):
    said = {"__type": "AccessDeniedException", "Message": "User is not authorized"}
    aws.answers["RunJobFlow"] = lambda _: (400, said)
    line = refused(aws, capsys)
    assert "elasticmapreduce:RunJobFlow" in line
    assert "iam:PassRole" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--input", "here"), "--input here can't be used"),
        (("--input", "s3://music/empty"), "nothing in s3://music/empty"),
        (("--input", f"{OUTPUT}/users"), "which a run replaces"),
        (("--input", "s3://nowhere/in"), "NoSuchBucket"),
    ],
)
def test_places_that_a_cluster_cannot_use_are_refused(aws, capsys, arguments, said):
    if arguments[1].startswith(OUTPUT):
        aws.s3.put_object(Bucket="lake", Key="out/users/a", Body=b"")
    assert said in refused(aws, capsys, *arguments)


def test_without_credentials_nothing_is_started(aws, capsys, tmp_path):
    (tmp_path / "dl.cfg").write_text(f"[AWS]\nENDPOINT_URL = {aws.address}\n")
    assert "needs credentials" in refused(aws, capsys)


def test_a_cluster_that_has_ended_or_never_was_is_refused(aws, capsys):
    status, _, stderr = run("--emr-cluster", "j-NEVER", "--input", INPUT, capsys=capsys)
    assert (status, "j-NEVER" in stderr) == (2, True)
    ended = aws.emr.run_job_flow(Name="mine", Instances={"KeepJobFlowAliveWhenNoSteps": False})["JobFlowId"]
    status, _, stderr = run("--emr-cluster", ended, "--input", INPUT, capsys=capsys)
    assert (status, f"{ended} is TERMINATED" in stderr) == (2, True), stderr


# ---- What goes wrong on the cluster ----------------------------------------------------------------------


def failed(aws, capsys, drive):
    """A run that fails on the cluster: its last line, and all of standard error."""
    with driving(drive):
        status, stdout, stderr = run("--emr", "--input", INPUT, capsys=capsys)
    assert (status, stdout) == (1, ""), stderr
    line = stderr.splitlines()[-1]
    assert line.startswith("etl.py: ")
    assert next(iter(clusters())) in line
    return line, stderr


def test_a_cluster_that_ends_with_errors_is_said_with_the_reason(aws, capsys):
    def drive(cluster):
        cluster.last_state_change_reason = "On the master instance (i-1), bootstrap action 1 returned a non-zero code"
        cluster.steps[0].state, cluster.state = "PENDING", "TERMINATED_WITH_ERRORS"

    line, _ = failed(aws, capsys, drive)
    assert "TERMINATED_WITH_ERRORS: On the master instance (i-1), bootstrap action 1" in line


def put_logs(aws, cluster, submitted, driver):
    """The logs of a step as EMR brings them to S3."""
    folder = f"out/_logs/{cluster.id}"
    logs = {f"steps/{cluster.steps[0].id}/stderr.gz": submitted, f"steps/{cluster.steps[0].id}/controller.gz": "x"}
    containers = "containers/application_17_0001/container_17_0001_01"
    # Spark sends both outputs of a Python driver to stdout.
    logs.update(
        {
            f"{containers}_000001/stdout.gz": driver,
            f"{containers}_000001/stderr.gz": "INFO x",
            f"{containers}_000002/stderr.gz": "etl.py: no driver\n",
        }
    )
    for name, text in logs.items():
        aws.s3.put_object(Bucket="lake", Key=f"{folder}/{name}", Body=gzip.compress(text.encode()))


def test_a_failed_step_is_said_with_the_line_of_the_drivers_log(aws, capsys, monkeypatch):
    monkeypatch.setattr(emr, "LOG_SECONDS", 60)
    submitted = "INFO Client: Submitted application application_17_0001\nException in thread main: exitCode 1\n"
    driver = "finished publishing run x\netl.py: warning: slow\n    3.0 s  read logs\n"
    driver += "etl.py: 7 of 9 log records can't be used\nINFO end\n"

    def drive(cluster):
        cluster.steps[0].state = "FAILED"
        time.sleep(1)  # as it does, the log comes later
        put_logs(aws, cluster, submitted, driver)

    line, stderr = failed(aws, capsys, drive)
    assert re.search(r"step FAILED: 7 of 9 log records can't be used; see s3://lake/out/_logs/j-\w+$", line)
    assert "waiting for its log" in stderr


def test_a_failed_step_without_a_line_of_its_own_is_said_with_the_errors(aws, capsys):
    submitted = "Submitted application application_17_0001\n"
    driver = "java.lang.OutOfMemoryError: Java heap space\n\tat x.y\nContainer exited with exit code 143\n"

    def drive(cluster):
        put_logs(aws, cluster, submitted, driver)
        cluster.steps[0].state = "FAILED"

    line, stderr = failed(aws, capsys, drive)
    assert "exit code 143" in line
    assert "\njava.lang.OutOfMemoryError: Java heap space\n" in stderr


def test_a_failed_step_without_a_log_is_said(aws, capsys):
    def drive(cluster):
        cluster.steps[0].last_state_change_reason = "Unknown Error"
        cluster.steps[0].state = "FAILED"

    assert "step FAILED: Unknown Error" in failed(aws, capsys, drive)[0]


DAMAGED_LOGS = {"cut": gzip.compress(b"etl.py: no")[:-9], "spoilt": gzip.compress(b"")[:10] + b"\xff" * 20}


@pytest.mark.parametrize("damaged", DAMAGED_LOGS.values(), ids=DAMAGED_LOGS.keys())  # a gzip holds the time
def test_a_failed_step_whose_log_is_damaged_is_said(aws, capsys, damaged):
    def drive(cluster):
        key = f"out/_logs/{cluster.id}/steps/{cluster.steps[0].id}/stderr.gz"
        aws.s3.put_object(Bucket="lake", Key=key, Body=damaged)
        cluster.steps[0].last_state_change_reason = "Unknown Error"
        cluster.steps[0].state = "FAILED"

    assert "step FAILED: Unknown Error" in failed(aws, capsys, drive)[0]


def test_a_step_that_somebody_cancels_is_said(aws, capsys):
    def drive(cluster):
        cluster.steps[0].state = "CANCELLED"

    assert "step CANCELLED" in failed(aws, capsys, drive)[0]


def test_a_step_without_a_report_is_said(aws, capsys):
    def drive(cluster):
        cluster.steps[0].state = "COMPLETED"

    assert re.search(r"there is no report s3://lake/out/_reports/\S+\.json; see s3://", failed(aws, capsys, drive)[0])


def test_credentials_that_expire_while_it_runs_leave_it_running(aws, capsys):
    expired = {"__type": "ExpiredTokenException", "Message": "The security token included in the request is expired"}
    aws.answers["DescribeStep"] = lambda _: (400, expired)
    line, _ = failed(aws, capsys, lambda _: None)
    assert "ExpiredTokenException" in line
    assert "--emr-stop" in line
    assert [cluster.state for cluster in clusters().values()] == ["WAITING"]  # moto's, for one that runs


def test_control_c_says_how_to_look_and_to_stop_and_leaves_it_running(aws, tmp_path):
    command = [sys.executable, ETL, "--emr", "--input", INPUT, "--output", OUTPUT]
    process = subprocess.Popen(
        command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    try:
        seen = [next(line for line in process.stderr if ", step " in line)]
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    (cluster,) = clusters()
    assert (process.returncode, stdout) == (1, ""), (seen, stderr)
    assert "Traceback" not in stderr
    last = stderr.splitlines()[-1]
    assert f"aws emr list-steps --region us-east-1 --cluster-id {cluster}" in last
    assert f"python etl.py --emr-stop {cluster} --output {OUTPUT}" in last
    assert clusters()[cluster].state == "WAITING"  # moto's, for one that runs


def test_a_cluster_is_ended_by_its_id(aws, capsys):
    instances = {"KeepJobFlowAliveWhenNoSteps": True, "MasterInstanceType": "m5.xlarge", "InstanceCount": 1}
    cluster = aws.emr.run_job_flow(Name="mine", Instances=instances)["JobFlowId"]
    assert run("--emr-stop", cluster, capsys=capsys)[:2] == (
        0,
        f"cluster {cluster} is ending; what it published stays\n",
    )
    assert clusters()[cluster].state == "TERMINATED"
    assert run("--emr-stop", cluster, capsys=capsys)[:2] == (0, f"cluster {cluster} is TERMINATED already\n")
    status, _, stderr = run("--emr-stop", "j-NEVER", capsys=capsys)
    assert (status, stderr.splitlines()[-1].startswith("etl.py: cluster j-NEVER: InvalidRequest")) == (2, True)


def test_the_bootstrap_action_installs_for_each_python_and_fails_when_it_cannot(tmp_path):
    (tmp_path / "bin").mkdir()
    stubs = {"sudo": '"$@"', "python3": 'echo "$0 $@" >> log', "python3.11": 'echo "$0 $@" >> log; [ "$3" != install ]'}
    for name, line in stubs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def bootstrap():
        (tmp_path / "log").unlink(missing_ok=True)
        paths = {"PATH": str(tmp_path / "bin")}
        status = subprocess.run(
            ["/bin/sh", "-c", emr.BOOTSTRAP], cwd=tmp_path, env=paths, capture_output=True
        ).returncode
        return status, re.findall(r"/(python\S*) -m pip install .*boto3", (tmp_path / "log").read_text())

    status, installed = bootstrap()
    assert (status != 0, installed) == (True, ["python3", "python3.11"])
    (tmp_path / "bin/python3.11").unlink()
    assert bootstrap() == (0, ["python3"])


# ---- The README's other ways -----------------------------------------------------------------------------


def readme_command(beginning):
    (found,) = [
        line for line in (ETL.parent / "README.md").read_text().splitlines() if line.strip().startswith(beginning)
    ]
    return shlex.split(found)


def test_the_command_of_the_readme_is_taken(aws, capsys):
    put(aws.s3, "my-bucket", {"sparkify/song_data/a.json": b"{}"})
    with driving(lambda cluster: complete(aws, cluster)):
        status = etl.main(readme_command("python etl.py --emr --input")[2:])
    assert (status, capsys.readouterr().out) == (0, summary(REPORT) + "\n")


def test_the_readmes_spark_submit_is_the_steps():
    code, source, output = "s3://my-bucket", "s3://my-bucket/sparkify", "s3://my-bucket/lake"
    step = emr.spark_step(Settings(source, output, None, 0.01, cluster=""), code, "s3://report")
    words = step["HadoopJarStep"]["Args"]
    for option in ("--conf", "--report", "--max-rejected"):  # what the README leaves out
        while option in words:
            at = words.index(option)
            del words[at : at + 2]
    assert readme_command("spark-submit --deploy-mode") == words


def test_the_readmes_job_of_emr_serverless_is_one():
    program, service, operation, *options = readme_command("aws emr-serverless")
    assert (program, service, operation) == ("aws", "emr-serverless", "start-job-run")
    values = dict(zip(options[::2], options[1::2]))
    parameters = {
        "clientToken": "x",  # the command line makes one
        "applicationId": values.pop("--application-id"),
        "executionRoleArn": "arn:aws:iam::123456789012:role/x"
        if values.pop("--execution-role-arn") == "ROLE_ARN"
        else "",
        "jobDriver": json.loads(values.pop("--job-driver")),
    }
    assert values == {}
    shape = boto3.client("emr-serverless", REGION).meta.service_model.operation_model("StartJobRun").input_shape
    assert ParamValidator().validate(parameters, shape).generate_report() == ""
    job = parameters["jobDriver"]["sparkSubmit"]
    assert read_settings(job["entryPointArguments"]).output == "s3://my-bucket/lake"
