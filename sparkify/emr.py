"""The job on an EMR cluster: started from a laptop, and followed to its end."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import json
import re
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, Callable

from sparkify.aws import POLL_ATTEMPTS, aws_calls, aws_client, said_by_aws
from sparkify.config import EMR_DEFAULTS, HERE, Settings
from sparkify.errors import JobError, PlaceError, UsageError
from sparkify.places import is_s3
from sparkify.publish import check_output, new_run_id
from sparkify.report import Watch, say
from sparkify.storage import storage_of

STANDARD_VCPUS = "L-1216C47A"  # EC2's quota of vCPUs for the types that begin with a, c, d, h, i, m, r, t, z
POLL_SECONDS = 15
LOG_SECONDS = 420  # EMR brings logs to S3 every five minutes
TO_START = "elasticmapreduce:RunJobFlow (or AddJobFlowSteps, …) and iam:PassRole"
BOOTSTRAP = """#!/bin/sh
# boto3, and orjson where it can be had, for each Python 3 that PySpark may run with. Runs on every node of a cluster
# before anything else is installed there.
set -e
for python in python3 python3.11 python3.12 python3.13; do
    if command -v "$python"; then
        "$python" -m pip --version || sudo "$python" -m ensurepip
        sudo "$python" -m pip install --quiet "boto3>=1.34,<2"
        sudo "$python" -m pip install --quiet "orjson>=3.9,<4" || true
    fi
done
"""


def run_on_emr(settings: Settings) -> dict[str, Any]:
    """Run the job on an EMR cluster, a new one or settings.cluster, and follow it; returns the report.

    Nothing of dl.cfg's [AWS] is sent there: the cluster has the permissions of its instance profile. Raises UsageError
    or PlaceError before anything is started, JobError after.
    """
    output = check_places(settings)
    report = f"_reports/{new_run_id()}.json"
    cluster, step, logs = start_step(settings, output, output.path(report))
    client = aws_client(output.aws, "emr", attempts=POLL_ATTEMPTS)
    look = f"aws emr list-steps --region {client.meta.region_name} --cluster-id {cluster}"
    end = f"python etl.py --emr-stop {cluster} --output {settings.output}"
    ways = f"to look at it: {look}; to end it: {end}"
    say(f"cluster {cluster}; {ways}")
    try:
        with aws_calls(f"cluster {cluster}", "elasticmapreduce:ListSteps and DescribeCluster"):
            step = step or client.list_steps(ClusterId=cluster)["Steps"][0]["Id"]
            state, reason = wait_for(client, cluster, step)
        if state == "COMPLETED":
            with contextlib.suppress(FileNotFoundError):
                return json.loads(output.read(report))
            reason = f"there is no report {output.path(report)}"
        if state == "FAILED" and logs:
            say(f"the step failed; waiting for its log, which EMR brings to {logs} every five minutes")
            with contextlib.suppress(PlaceError, OSError, EOFError, zlib.error):  # else EMR's own reason is all
                reason = failure_reason(output.aws, logs, step) or reason
    except PlaceError as error:
        raise JobError(f"{error}; {ways}") from None
    except KeyboardInterrupt:
        raise JobError(f"stopped watching; the cluster goes on; {ways}") from None
    see = logs or "its log on the master node"
    raise JobError(f"on cluster {cluster} the step {state}: {reason}; see {see}")


def stop_cluster(settings: Settings) -> None:
    """End a cluster."""
    aws = storage_of(settings.output, settings.aws).aws if is_s3(settings.output) else settings.aws
    client = aws_client(aws, "emr")
    with aws_calls(f"cluster {settings.cluster_to_stop}", "elasticmapreduce:TerminateJobFlows"):
        state = client.describe_cluster(ClusterId=settings.cluster_to_stop)["Cluster"]["Status"]["State"]
        if state.startswith("TERMINATED"):
            print(f"cluster {settings.cluster_to_stop} is {state} already")
            return
        client.terminate_job_flows(JobFlowIds=[settings.cluster_to_stop])
    print(f"cluster {settings.cluster_to_stop} is ending; what it published stays")


# ---- Before anything is started --------------------------------------------------------------------------


def check_places(settings: Settings) -> Any:
    """Check that a cluster can have its input and output, as far as that can be seen here; the output's storage."""
    for name, place in (("input", settings.input), ("output", settings.output)):
        if not is_s3(place):
            raise UsageError(f"on EMR, --{name} {place} can't be used: name a place that begins with s3://")
    source = storage_of(settings.input, settings.aws)
    output = storage_of(settings.output, settings.aws)
    if output.aws.get("anonymous"):
        raise UsageError("EMR needs credentials, and there are none: run `aws configure`, or fill in dl.cfg's [AWS]")
    if not source.folders() and not source.list():
        raise UsageError(f"there is nothing in {settings.input}")
    check_output(settings.input, output, settings.report, settings.aws)
    return output


def check_cluster(aws: dict[str, str], emr: dict[str, str]) -> int | None:
    """Check what a new cluster needs, and say what it is and costs; its workers' vCPUs, None where they aren't known.

    What the credentials don't allow to ask is said and passed over.
    """
    client = aws_client(aws, "emr")
    region, kind, release = client.meta.region_name, emr["instance_type"], emr["release"]
    if not re.fullmatch("[1-9][0-9]*", emr["workers"]):
        raise UsageError(f"WORKERS is {emr['workers']} in dl.cfg's [EMR]: give a whole number from 1 on")
    workers = int(emr["workers"])
    found = _if_allowed("the releases", client.list_release_labels, Filters={"Prefix": release})
    if found and release not in found.get("ReleaseLabels", ()):
        raise UsageError(
            f"there is no release {release} in {region}: `aws emr list-release-labels --region {region}` lists them; "
            "set RELEASE in dl.cfg's [EMR]"
        )
    check_roles(aws, emr)
    vcpus = check_vcpus(aws, region, kind, workers + 1)
    price = _if_allowed("the price", hourly_price, aws=aws, region=region, kind=kind)
    cost = "its cost isn't known"
    if price:
        cost = f"about {price * (workers + 1):.2f} USD an hour, without disks and S3"
    say(f"starting 1 + {workers} {kind} with {release} in {region}: {cost}")
    return vcpus and vcpus * workers


def check_roles(aws: dict[str, str], emr: dict[str, str]) -> None:
    """Check that there are the two roles of a cluster."""
    iam = aws_client(aws, "iam")
    role, profile = emr["service_role"].split("/")[-1], emr["instance_profile"].split("/")[-1]
    asked = {
        "service_role": functools.partial(iam.get_role, RoleName=role),
        "instance_profile": functools.partial(iam.get_instance_profile, InstanceProfileName=profile),
    }
    for key, ask in asked.items():
        what = f"{key.replace('_', ' ')} {emr[key]}"
        try:
            _if_allowed(f"the {what}", ask)
        except iam.exceptions.NoSuchEntityException:
            raise UsageError(
                f"there is no {what}: `aws emr create-default-roles` makes the default ones; or set {key.upper()} in "
                "dl.cfg's [EMR]"
            ) from None


def check_vcpus(aws: dict[str, str], region: str, kind: str, machines: int) -> int | None:
    """Check that the quota allows for so many machines of a kind; the vCPUs of one, None where they aren't known."""
    ask = aws_client(aws, "ec2").describe_instance_types
    types = _if_allowed(f"the instance type {kind}", ask, InstanceTypes=[kind])
    if not types:
        return None
    vcpus = types["InstanceTypes"][0]["VCpuInfo"]["DefaultVCpus"]
    if not re.match(r"(a|c|d|h|i|im|is|m|r|t|z)\d", kind):
        return vcpus
    ask = aws_client(aws, "service-quotas").get_service_quota
    answer = _if_allowed("the quota of vCPUs", ask, ServiceCode="ec2", QuotaCode=STANDARD_VCPUS)
    if answer and answer["Quota"]["Value"] < vcpus * machines:
        raise UsageError(
            f"{machines} {kind} have {vcpus * machines} vCPUs, and the quota in {region} is "
            f"{answer['Quota']['Value']:g}: lower WORKERS in dl.cfg's [EMR], or ask for more: `aws service-quotas "
            f"request-service-quota-increase --service-code ec2 --quota-code {STANDARD_VCPUS} --desired-value …`"
        )
    return vcpus


def _if_allowed(what: str, ask: Callable[..., Any], **arguments: Any) -> Any:
    """What ask answers; None, said in a line, where AWS doesn't allow to ask or doesn't answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return ask(**arguments)
    except (BotoCoreError, ClientError) as error:
        code, message = said_by_aws(error)
        if code == "NoSuchEntity":
            raise
        say(f"etl.py: warning: AWS doesn't tell {what}: {code}: {message}")
        return None


def hourly_price(aws: dict[str, str], region: str, kind: str) -> float | None:
    """USD an hour for an instance under EMR, by AWS's price list, without its disks; None where that isn't clear."""
    machine = {"operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"}
    client = aws_client({**aws, "region": "us-east-1"}, "pricing", attempts=2)  # has the prices of all regions
    total = 0.0
    for service, fields in {"AmazonEC2": machine, "ElasticMapReduce": {"softwareType": "EMR"}}.items():
        wanted = {**fields, "instanceType": kind, "regionCode": region}
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
        prices = {
            float(dimension["pricePerUnit"].get("USD", 0))
            for product in client.get_products(ServiceCode=service, Filters=filters)["PriceList"]
            for term in json.loads(product)["terms"].get("OnDemand", {}).values()
            for dimension in term["priceDimensions"].values()
        } - {0.0}
        if len(prices) != 1:
            return None
        total += prices.pop()
    return total


# ---- The start -------------------------------------------------------------------------------------------


def start_step(settings: Settings, output: Any, report: str) -> tuple[str, str | None, str | None]:
    """Upload the code to the output's storage and start its step, with a cluster for it where none was named.

    Gives the id of the cluster, that of the step if it isn't the only one there, and where the logs go.
    """
    emr = {**EMR_DEFAULTS, **settings.emr}
    client = aws_client(output.aws, "emr")
    with aws_calls("EMR", TO_START):
        if settings.cluster:
            mine = client.describe_cluster(ClusterId=settings.cluster)["Cluster"]
            state = mine["Status"]["State"]
            if state not in ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"):
                raise UsageError(f"the cluster {settings.cluster} is {state}: name one that is running")
            step = spark_step(settings, upload_code(output), report)
            added = client.add_job_flow_steps(JobFlowId=settings.cluster, Steps=[step])
            cluster, step_id, logs = settings.cluster, added["StepIds"][0], mine.get("LogUri")
        else:
            cores = check_cluster(output.aws, emr)
            code = upload_code(output)
            step = spark_step(settings, code, report, cores)
            logs = emr.get("log_uri") or output.path("_logs")
            request = new_cluster(emr, logs, f"{code}/install_boto3.sh", step)
            cluster, step_id = client.run_job_flow(**request)["JobFlowId"], None
    folder = f"{re.sub('^s3[an]:', 's3:', logs).rstrip('/')}/{cluster}" if logs else None
    return cluster, step_id, folder


def upload_code(output: Any) -> str:
    """Upload what a cluster needs of this project to the output's storage; the place of its folder."""
    files = code_files()
    folder = f"_code/{hashlib.sha256(b''.join(files.values())).hexdigest()[:16]}"
    for name, content in files.items():
        output.write(f"{folder}/{name}", content)
    return output.path(folder)


def code_files() -> dict[str, bytes]:
    """{name: bytes} of what a cluster needs of this project: the job, its package as a zip, the bootstrap action.

    The same files give the same bytes: in the order of their names, of one date, not compressed.
    """
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(Path(__file__).parent.glob("*.py")):
            archive.writestr(zipfile.ZipInfo(f"sparkify/{path.name}"), path.read_bytes())
    job = Path(HERE, "etl.py").read_bytes()
    return {"etl.py": job, "sparkify.zip": package.getvalue(), "install_boto3.sh": BOOTSTRAP.encode()}


def spark_step(settings: Settings, code: str, report: str, cores: int | None = None) -> dict[str, Any]:
    """The step that runs the job: master, memory, file system and committer are EMR's."""
    options = {"spark.yarn.maxAppAttempts": "1"}  # what failed would fail again
    if cores:
        options["spark.default.parallelism"] = str(cores)
    for process in ("yarn.appMasterEnv", "executorEnv"):
        # Many processes of a node ask at once for the keys of its instance profile.
        options[f"spark.{process}.AWS_METADATA_SERVICE_NUM_ATTEMPTS"] = "5"
    command = ["spark-submit", "--deploy-mode", "cluster", "--py-files", f"{code}/sparkify.zip"]
    for key, value in options.items():
        command += ["--conf", f"{key}={value}"]
    command += [f"{code}/etl.py", "--input", settings.input, "--output", settings.output]
    command += ["--report", report, "--max-rejected", str(settings.max_rejected)]
    return {
        "Name": "sparkify-etl",
        "ActionOnFailure": "CONTINUE" if settings.cluster else "TERMINATE_CLUSTER",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": command},
    }


def new_cluster(emr: dict[str, str], logs: str, bootstrap: str, step: dict[str, Any]) -> dict[str, Any]:
    """The arguments of run_job_flow. The cluster ends itself after its step, or after an idle hour."""
    groups = [
        {"InstanceRole": role, "InstanceCount": count, "InstanceType": emr["instance_type"], "Market": "ON_DEMAND"}
        for role, count in (("MASTER", 1), ("CORE", int(emr["workers"])))
    ]
    instances = {"InstanceGroups": groups, "KeepJobFlowAliveWhenNoSteps": False, "TerminationProtected": False}
    for name, key in (("Ec2SubnetId", "subnet"), ("Ec2KeyName", "key_name")):
        if key in emr:
            instances[name] = emr[key]
    tags = {"Name": "sparkify-etl"}
    for tag in emr.get("tags", "").split(","):
        key, _, value = tag.partition("=")
        if tag.strip():
            tags[key.strip()] = value.strip()
    return {
        "Name": "sparkify-etl",
        "ReleaseLabel": emr["release"],
        "Applications": [{"Name": "Spark"}],
        "LogUri": logs.rstrip("/") + "/",
        "ServiceRole": emr["service_role"],
        "JobFlowRole": emr["instance_profile"],
        "Instances": instances,
        "AutoTerminationPolicy": {"IdleTimeout": 3600},
        "BootstrapActions": [{"Name": "boto3", "ScriptBootstrapAction": {"Path": bootstrap}}],
        "Steps": [step],
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }


# ---- The way to its end ----------------------------------------------------------------------------------


def wait_for(client: Any, cluster_id: str, step_id: str) -> tuple[str, str]:
    """Wait until a step or its cluster has ended, saying each change; its state, and the reason that EMR gives."""
    watch = Watch()
    while True:
        cluster = client.describe_cluster(ClusterId=cluster_id)["Cluster"]["Status"]
        step = client.describe_step(ClusterId=cluster_id, StepId=step_id)["Step"]["Status"]
        watch.show(f"cluster {cluster['State']}, step {step['State']}")
        messages = [cluster.get("StateChangeReason", {}).get("Message"), "EMR gives no reason"]
        if step["State"] in ("COMPLETED", "FAILED", "CANCELLED", "INTERRUPTED"):
            of_step = [step.get(key, {}).get("Message") for key in ("FailureDetails", "StateChangeReason")]
            return step["State"], next(filter(None, of_step + messages))
        if cluster["State"].startswith("TERMINATED"):
            return f"didn't run, the cluster {cluster['State']}", next(filter(None, messages))
        time.sleep(POLL_SECONDS)


def failure_reason(aws: dict[str, str], logs: str, step_id: str) -> str | None:
    """Why a step failed, by its logs on S3, which are waited for: etl.py's last line, else one with an error."""
    storage = storage_of(logs, aws)
    end, lines = time.monotonic() + LOG_SECONDS, []
    while True:
        submitted = log_text(storage, f"steps/{step_id}")
        application = re.search(r"application_\d+_\d+", submitted)
        # Spark sends both outputs of a Python driver to stdout of the first container.
        driver = log_text(storage, f"containers/{application.group()}", "_000001/") if application else ""
        said = re.findall(r"^etl\.py: (?!warning)(.*)", driver or submitted, re.MULTILINE)
        if said:
            return said[-1]
        lines = re.findall(r".*(?:Error|Exception|exit code|exitCode|Killed).*", driver + submitted) or lines
        if time.monotonic() > end:
            for line in lines[-20:]:
                say(line)
            return lines[-1].strip()[:500] if lines else None
        time.sleep(POLL_SECONDS)


def log_text(storage: Any, folder: str, part: str = "") -> str:
    """The text of the outputs of processes in a folder, those whose names hold a part."""
    names = [name for name in sorted(storage.list(folder)) if part in name and "/std" in f"/{name}"]
    contents = [storage.read(name) for name in names]
    whole = b"\n".join(gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text for text in contents)
    return whole.decode("utf-8", "replace")
