"""The Glue Data Catalog: etl.py against moto's server, with a proxy before it that says what moto can't.

Most tests have a lake of empty files, for the catalogue goes by their names alone; one run makes a real one.
"""

import io
import itertools
import json
import re
import shlex

import boto3
import oracle
import pyarrow
import pyarrow.parquet
import pytest
from botocore.validate import ParamValidator
from dirty import event, song, write_input
from proxy import Api
from s3 import SECRET, contents, put, write_config
from tables import COLUMNS, PARTITIONS, ROOT, assert_rows, columns_of

import etl
from sparkify import catalog
from sparkify.aws import aws_client
from sparkify.catalog import RUN_PARAMETER, partition_input, partitions_in, register, table_input
from sparkify.config import read_settings
from sparkify.errors import JobError, UsageError
from sparkify.report import summary
from sparkify.schema import TABLES
from sparkify.storage import storage_of

pytestmark = pytest.mark.usefixtures("no_aws_from_outside")

REGION = "us-east-1"
NUMBERS = itertools.count(1)
WRITING = re.compile("Create|Update|Delete")
SONGPLAYS = [("2018", "11"), ("2018", "12")]
SONGS = [("0",), ("1999",), ("__HIVE_DEFAULT_PARTITION__",)]
NOTHING = 200, {}


def client_of(service, address):
    return boto3.client(service, REGION, endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b")


@pytest.fixture
def aws(endpoint, tmp_path, monkeypatch):
    """A proxy before moto, in dl.cfg; a new bucket and the name of a new database. Pauses are short."""
    proxy = Api(endpoint)
    number = next(NUMBERS)
    proxy.bucket, proxy.database, proxy.folder = f"lake-{number}", f"sparkify_{number}", tmp_path
    proxy.output = f"s3://{proxy.bucket}/out"
    proxy.s3, proxy.glue = client_of("s3", endpoint), client_of("glue", endpoint)
    proxy.s3.create_bucket(Bucket=proxy.bucket)
    write_config(tmp_path, proxy.address)
    monkeypatch.setattr(catalog, "PAUSES", (0, 0, 0, 0))
    yield proxy
    proxy.close()


def publish(aws, run="20240102T030405Z-0000000a", rows=7, **partitions):
    """A lake as a run has published it; partitions: {table: those of its files}."""
    old = [{"Key": key} for key in contents(aws.s3, aws.bucket)]
    if old:
        aws.s3.delete_objects(Bucket=aws.bucket, Delete={"Objects": old})
    found = {
        **{table: [()] for table in TABLES},
        "songplays": SONGPLAYS,
        "songs": SONGS,
        "time": SONGPLAYS,
        **partitions,
    }
    names = []
    for table, values in found.items():
        for each in values:
            folders = [f"{key}={value}" for key, value in zip(PARTITIONS[table], each)]
            names.append("/".join(["out", table, *folders, "part-0.parquet"]))
    put(aws.s3, aws.bucket, dict.fromkeys(names, b""))
    about = {"run_id": run, "rows": dict.fromkeys(TABLES, rows)}
    put(aws.s3, aws.bucket, {"out/_published.json": json.dumps(about).encode()})


def call(aws, capsys, *arguments):
    """Call main with the database and the output: (status, standard output, standard error)."""
    aws.asked.clear()
    capsys.readouterr()
    status = etl.main(["--catalog", aws.database, "--output", aws.output, *map(str, arguments)])
    stdout, stderr = capsys.readouterr()
    assert "Traceback" not in stderr
    assert SECRET not in stdout + stderr
    return status, stdout, stderr


def registered(aws, capsys):
    """Register what is published, and say how: the last line."""
    status, stdout, stderr = call(aws, capsys, "--no-run")
    assert (status, stdout) == (0, ""), stderr
    return stderr.splitlines()[-1]


def failed(aws, capsys, status, *arguments):
    """The one line of a call that ends so."""
    found, _, stderr = call(aws, capsys, *(arguments or ["--no-run"]))
    assert found == status, stderr
    line = stderr.splitlines()[-1]
    assert line.startswith("etl.py: ")
    assert len(line) < 600
    if status == 1:
        assert "the tables are not registered, or not all" in line
        assert f"`python etl.py --catalog {aws.database} --no-run --output {aws.output}`" in line
    return line


def table_of(aws, name):
    return aws.glue.get_table(DatabaseName=aws.database, Name=name)["Table"]


def partitions_of(aws, name):
    """{values: location} of the partitions of a table."""
    found = aws.glue.get_partitions(DatabaseName=aws.database, TableName=name)["Partitions"]
    return {tuple(partition["Values"]): partition["StorageDescriptor"]["Location"] for partition in found}


def said(code, message="no"):
    return 400, {"__type": code, "Message": message}


def once(answer):
    """An answer for the first request alone."""
    answers = iter([answer])
    return lambda _: next(answers, None)


def writing(aws):
    return [operation for operation, _ in aws.asked if WRITING.match(operation.replace("Batch", ""))]


# ---- What Glue is told -----------------------------------------------------------------------------------


def test_a_table_and_a_partition_as_data():
    table = table_input("songs", "s3://lake/songs", "run-1", 71)
    assert [(column["Name"], column["Type"]) for column in table["StorageDescriptor"]["Columns"]] == [
        ("song_id", "string"),
        ("title", "string"),
        ("artist_id", "string"),
        ("duration", "double"),
    ]
    assert table["PartitionKeys"] == [{"Name": "year", "Type": "int", "Comment": TABLES["songs"].columns["year"][1]}]
    assert table["TableType"] == "EXTERNAL_TABLE"
    assert table["Parameters"] == {
        "classification": "parquet",
        "EXTERNAL": "TRUE",
        "numRows": "71",
        "sparkify.run_id": "run-1",
    }
    descriptor = table["StorageDescriptor"]
    assert descriptor["Location"] == "s3://lake/songs/"
    partition = partition_input("songs", "s3://lake/songs", ("0",))
    assert partition == {"Values": ["0"], "StorageDescriptor": {**descriptor, "Location": "s3://lake/songs/year=0/"}}


@pytest.mark.parametrize("table", TABLES)
def test_glue_takes_it(table):
    model = boto3.client("glue", REGION).meta.service_model
    values = ("0",) * len(TABLES[table].partitions)
    inputs = {
        "TableInput": table_input(table, f"s3://lake/{table}", "run-1", 0),
        "PartitionInput": partition_input(table, f"s3://lake/{table}", values),
    }
    for shape, given in inputs.items():
        assert ParamValidator().validate(given, model.shape_for(shape)).generate_report() == ""


@pytest.mark.parametrize("table", TABLES)
def test_each_table_and_column_is_described(table):
    contract = TABLES[table]
    for line in (contract.description, *[description for _, description in contract.columns.values()]):
        assert 0 < len(line) <= 255
        assert line.isascii()
        assert "\n" not in line


def test_a_file_that_lies_elsewhere_is_named():
    for name in ("songs/part-0.parquet", "songs/month=1/part-0.parquet", "songs/year=1/month=1/part-0.parquet"):
        with pytest.raises(UsageError, match=name):
            partitions_in("songs", [name])


# ---- A whole run -----------------------------------------------------------------------------------------

IN_ARROW = {
    "bigint": pyarrow.int64(),
    "int": pyarrow.int32(),
    "double": pyarrow.float64(),
    "string": pyarrow.string(),
    "timestamp": pyarrow.timestamp("us", "UTC"),
}


def read_by_catalogue(aws, name):
    """The rows of a table for a reader that knows only what the catalogue says, columns in the contract's order."""
    table = table_of(aws, name)
    descriptors = [((), table["StorageDescriptor"])]
    if table["PartitionKeys"]:
        found = aws.glue.get_partitions(DatabaseName=aws.database, TableName=name)["Partitions"]
        descriptors = [(partition["Values"], partition["StorageDescriptor"]) for partition in found]
    assert "Parquet" in table["StorageDescriptor"]["SerdeInfo"]["SerializationLibrary"]
    rows = []
    for values, descriptor in descriptors:
        columns = [(column["Name"], IN_ARROW[column["Type"]]) for column in descriptor["Columns"]]
        bucket, _, prefix = descriptor["Location"].removeprefix("s3://").partition("/")
        files = contents(aws.s3, bucket, prefix)
        assert files, descriptor["Location"]
        numbers = [None if value == "__HIVE_DEFAULT_PARTITION__" else int(value) for value in values]
        keys = dict(zip([key["Name"] for key in table["PartitionKeys"]], numbers))
        for content in files.values():
            read = pyarrow.parquet.ParquetFile(io.BytesIO(content)).read()
            assert list(zip(read.schema.names, read.schema.types)) == columns, name
            for row in read.to_pylist():
                both = {**row, **keys}
                assert set(both) == {column for column, _ in columns_of(name)}
                ordered = [both[column] for column, _ in columns_of(name)]
                rows.append(tuple(v.replace(tzinfo=None) if hasattr(v, "tzinfo") else v for v in ordered))
    return oracle.sort_rows(rows)


@pytest.fixture
def lake_input(tmp_path):
    """Songs of an unknown year and of one that is no number, and plays in two months."""
    songs = [
        song(song_id=f"S{n}", title=f"T{n}", artist_id=f"A{n}", year=year) for n, year in enumerate([0, "?", 1999])
    ]
    plays = [event(itemInSession=n, song=f"T{n}", ts=1541105830796 + n * 1_000_000_000) for n in range(4)]
    return write_input(tmp_path / "in", songs, plays)


@pytest.fixture
def run_on_s3(aws, run_here, lake_input):
    """Run the job with --catalog; (status, last line of standard error)."""
    return lambda *arguments: run_here(
        "--input", lake_input, "--output", aws.output, "--catalog", aws.database.upper(), *arguments
    )


def test_after_a_run_a_reader_that_knows_only_the_catalogue_finds_the_oracles_tables(aws, run_on_s3, lake_input):
    status, line = run_on_s3("--report", "report.json")
    assert (status, line) == (
        0,
        f"the five tables are in the database {aws.database} of the AWS Glue Data Catalog, with 7 partitions: "
        "7 new, 0 changed, 0 gone",
    )
    expected = oracle.five_tables(lake_input)
    report = json.loads((aws.folder / "report.json").read_text())
    for name in COLUMNS:
        rows = read_by_catalogue(aws, name)
        assert_rows(rows, expected[name], name)
        table = table_of(aws, name)
        assert table["Parameters"]["numRows"] == str(len(rows))
        assert table["Parameters"][RUN_PARAMETER] == report["run_id"]
        assert table["Description"] == TABLES[name].description
    assert sorted(partitions_of(aws, "songs")) == sorted(SONGS)


def test_what_fails_after_the_run_leaves_the_tables_and_the_report(aws, run_on_s3, capsys):
    aws.answers["CreateTable"] = lambda _: said("AccessDeniedException", "not for you")
    status, line = run_on_s3("--report", "report.json")
    assert status == 1
    assert "AccessDeniedException: not for you" in line
    assert "glue:CreateTable" in line
    command = f"python etl.py --catalog {aws.database.upper()} --no-run --output {aws.output}"
    assert line.endswith(f"; the tables are not registered, or not all: run `{command}`; the tables are published")
    assert json.loads((aws.folder / "report.json").read_text())["tables"]["songplays"]["rows"] == 4
    del aws.answers["CreateTable"]
    assert registered(aws, capsys).endswith("7 new, 0 changed, 0 gone")


def test_tables_are_registered_before_a_load_that_fails(aws, run_on_s3, monkeypatch):
    def fail(*_):
        raise JobError("the database is gone")

    monkeypatch.setattr(etl, "check_load", lambda *_: None)
    monkeypatch.setattr(etl, "load_tables", fail)
    status, line = run_on_s3("--load", "postgresql://ann@localhost/lake")
    assert (status, "the database is gone; the tables are published" in line) == (1, True), line
    assert table_of(aws, "users")["Parameters"]["numRows"] == "1"


def test_tables_without_rows_have_the_partition_of_zeros(aws, run_here):
    folder = write_input(aws.folder / "none", [song(year=1999)], [event(page="Home")])
    assert run_here("--input", folder, "--output", aws.output, "--catalog", aws.database)[0] == 0
    for name in ("songplays", "time"):
        assert partitions_of(aws, name) == {("0", "0"): f"{aws.output}/{name}/year=0/month=0/"}
        assert read_by_catalogue(aws, name) == []


# ---- Differences -----------------------------------------------------------------------------------------


def test_what_is_registered_already_is_only_read(aws, capsys):
    publish(aws)
    assert registered(aws, capsys).endswith("with 7 partitions: 7 new, 0 changed, 0 gone")
    assert registered(aws, capsys).endswith("with 7 partitions: 0 new, 0 changed, 0 gone")
    assert writing(aws) == []
    assert {operation for operation, _ in aws.asked} == {"GetDatabase", "GetTable", "GetPartitions"}


def test_another_run_with_the_same_partitions_changes_the_tables_alone(aws, capsys):
    publish(aws)
    registered(aws, capsys)
    publish(aws, run="20240103T030405Z-0000000b", rows=8)
    registered(aws, capsys)
    assert writing(aws) == ["UpdateTable"] * 5
    for sent in aws.parameters("UpdateTable"):
        assert sent["SkipArchive"] is True
        assert sent["VersionId"] == "1"
    assert table_of(aws, "time")["Parameters"]["numRows"] == "8"
    assert table_of(aws, "time")["Parameters"][RUN_PARAMETER] == "20240103T030405Z-0000000b"


def test_new_partitions_come_before_those_that_are_gone_go(aws, capsys):
    publish(aws)
    registered(aws, capsys)
    publish(aws, run="20240103T030405Z-0000000b", songplays=[("2018", "12"), ("2019", "1")])
    assert registered(aws, capsys).endswith("with 7 partitions: 1 new, 0 changed, 1 gone")
    assert partitions_of(aws, "songplays") == {
        ("2018", "12"): f"{aws.output}/songplays/year=2018/month=12/",
        ("2019", "1"): f"{aws.output}/songplays/year=2019/month=1/",
    }
    assert writing(aws)[:3] == ["UpdateTable", "BatchCreatePartition", "BatchDeletePartition"]
    assert aws.parameters("BatchDeletePartition")[0]["PartitionsToDelete"] == [{"Values": ["2018", "11"]}]


def test_a_lake_that_has_moved_has_its_tables_and_partitions_moved(aws, capsys):
    publish(aws)
    registered(aws, capsys)
    aws.s3.copy_object(Bucket=aws.bucket, Key="new/_published.json", CopySource=f"{aws.bucket}/out/_published.json")
    for key in contents(aws.s3, aws.bucket, "out/"):
        aws.s3.copy_object(Bucket=aws.bucket, Key=key.replace("out/", "new/", 1), CopySource=f"{aws.bucket}/{key}")
    aws.output = f"s3://{aws.bucket}/new"
    assert registered(aws, capsys).endswith("with 7 partitions: 0 new, 7 changed, 0 gone")
    assert set(partitions_of(aws, "songs").values()) == {f"{aws.output}/songs/year={year}/" for (year,) in SONGS}
    assert table_of(aws, "users")["StorageDescriptor"]["Location"] == f"{aws.output}/users/"


def test_more_partitions_than_a_page_and_a_batch(aws, capsys):
    months = [(str(year), str(month)) for year in range(2000, 2021) for month in range(1, 13)]
    publish(aws, songplays=months)
    whole = client_of("glue", f"http://{aws.backend}")

    def page(asked):
        found = whole.get_partitions(DatabaseName=asked["DatabaseName"], TableName=asked["TableName"])["Partitions"]
        kept = [{key: one[key] for key in ("Values", "StorageDescriptor")} for one in found]
        start = int(asked.get("NextToken", 0))
        more = {"NextToken": str(start + 100)} if len(kept) > start + 100 else {}
        return 200, {"Partitions": kept[start:][:100], **more}

    aws.answers["GetPartitions"] = page
    registered(aws, capsys)
    sizes = [len(sent["PartitionInputList"]) for sent in aws.parameters("BatchCreatePartition")]
    assert sizes == [100, 100, 52, 3, 2]
    assert registered(aws, capsys).endswith("with 257 partitions: 0 new, 0 changed, 0 gone")
    publish(aws, songplays=months[:192])
    assert registered(aws, capsys).endswith("with 197 partitions: 0 new, 0 changed, 60 gone")
    assert [len(sent["PartitionsToDelete"]) for sent in aws.parameters("BatchDeletePartition")] == [25, 25, 10]
    assert sorted(partitions_of(aws, "songplays")) == sorted(months[:192])


def test_what_somebody_added_to_a_table_stays_but_for_columns(aws, capsys):
    publish(aws)
    registered(aws, capsys)
    table = table_input("users", f"{aws.output}/users", "20240102T030405Z-0000000a", 7)
    wanted = table["StorageDescriptor"]["Columns"]
    table["StorageDescriptor"]["Columns"] = [*wanted, {"Name": "shoe_size", "Type": "int"}]
    table["Parameters"]["team"] = "data"
    aws.glue.update_table(DatabaseName=aws.database, TableInput={**table, "Owner": "somebody"})
    registered(aws, capsys)
    assert writing(aws) == ["UpdateTable"]
    after = table_of(aws, "users")
    assert after["Parameters"] == table["Parameters"]
    assert after["Owner"] == "somebody"
    assert after["StorageDescriptor"]["Columns"] == wanted  # the files have no other
    registered(aws, capsys)
    assert writing(aws) == []


# ---- Before anything is done -----------------------------------------------------------------------------


def refused(aws, capsys, *arguments):
    """A call that is refused: its line. Nothing was written to the catalogue."""
    line = failed(aws, capsys, 2, *arguments)
    assert writing(aws) == []
    return line


@pytest.mark.parametrize("arguments", [["--no-run"], ["--input", ROOT / "data"], ["--emr", "--input", "s3://music/in"]])
def test_a_table_that_is_not_ours_is_refused_before_anything_is_begun(aws, capsys, monkeypatch, arguments):
    for beginning in ("run", "run_on_emr"):
        monkeypatch.setattr(etl, beginning, lambda *_: pytest.fail("it is begun"))
    publish(aws)
    aws.glue.create_database(DatabaseInput={"Name": aws.database})
    aws.glue.create_table(DatabaseName=aws.database, TableInput={"Name": "songs", "Parameters": {"a": "b"}})
    line = refused(aws, capsys, *arguments)
    assert f"database {aws.database} of the AWS Glue Data Catalog has a table songs that isn't etl.py's" in line
    assert table_of(aws, "songs")["Parameters"] == {"a": "b"}


def test_a_table_that_somebody_makes_meanwhile_is_left_alone(aws, capsys, monkeypatch):
    publish(aws)
    monkeypatch.setattr(etl, "check_catalog", lambda _: None)
    aws.glue.create_database(DatabaseInput={"Name": aws.database})
    aws.glue.create_table(DatabaseName=aws.database, TableInput={"Name": "users"})
    assert "has a table users that isn't etl.py's" in failed(aws, capsys, 1)


def test_a_database_that_links_to_another_catalogue_is_refused(aws, capsys):
    publish(aws)
    target = {"CatalogId": "210987654321", "DatabaseName": "theirs"}
    aws.answers["GetDatabase"] = lambda _: (200, {"Database": {"Name": aws.database, "TargetDatabase": target}})
    assert "--catalog theirs, and in dl.cfg's [CATALOG] ID = 210987654321" in refused(aws, capsys)


def test_no_permission_to_look_is_said_before_anything_is_begun(aws, capsys, monkeypatch):
    monkeypatch.setattr(etl, "run", lambda *_: pytest.fail("it is begun"))
    aws.glue.create_database(DatabaseInput={"Name": aws.database})
    for operation in ("GetTable", "GetDatabase"):
        aws.answers[operation] = lambda _: said("AccessDeniedException")
        assert f"need the permission glue:{operation} there" in refused(aws, capsys, "--input", ROOT / "data")


def test_a_local_output_is_refused(aws, capsys, monkeypatch):
    monkeypatch.setattr(etl, "run", lambda *_: pytest.fail("it is begun"))
    aws.output = str(aws.folder / "lake")
    for arguments in (["--no-run"], ["--input", ROOT / "data"]):
        assert "is on this machine" in refused(aws, capsys, *arguments)


def test_an_output_in_which_nothing_is_published_is_refused(aws, capsys):
    assert "no run has published its tables" in refused(aws, capsys)
    publish(aws)
    journal = {"run_id": "20240103T030405Z-0000000b", "staged": {}}
    put(aws.s3, aws.bucket, {"out/_journal.json": json.dumps(journal).encode()})
    line = refused(aws, capsys)
    assert "run 20240103T030405Z-0000000b has published only some" in line
    assert "--recover" in line


@pytest.mark.parametrize("name", ["a b", "a.b", "*", "a/b"])
def test_a_name_that_no_database_has_is_refused(aws, capsys, name):
    aws.database = name
    assert f"--catalog {name}: " in refused(aws, capsys)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--no-run"], "--no-run needs --load URL"),
        (["--catalog", "x", "--no-run", "--report", "r"], "--report needs a run"),
        (["--catalog", "x", "--recover"], "leave"),
        (["--catalog", "x", "--emr-stop", "j-1"], "leave"),
    ],
)
def test_flags_that_do_not_go_together(arguments, line, capsys):
    assert etl.main(arguments) == 2
    assert line in capsys.readouterr().err.splitlines()[-1]


def test_the_configuration_names_a_database_and_the_command_line_another(aws):
    write_config(aws.folder, aws.address, "[Catalog]\nDatabase = lake\nID = 210987654321\n")
    assert read_settings(["--no-run", "--bucket", "b"]).catalog == {"database": "lake", "id": "210987654321"}
    assert read_settings(["--catalog", "other"]).catalog == {"database": "other", "id": "210987654321"}


def test_the_catalogue_of_another_account_is_in_each_call(aws, capsys):
    publish(aws)
    write_config(aws.folder, aws.address, "[CATALOG]\nID = 210987654321\n")
    assert f"in the database {aws.database} of the catalogue 210987654321, with" in registered(aws, capsys)
    assert {asked.get("CatalogId") for _, asked in aws.asked} == {"210987654321"}
    aws.answers["GetDatabase"] = lambda _: said("AccessDeniedException", "not authorized to access this resource")
    line = refused(aws, capsys)
    assert f"database {aws.database} of the catalogue 210987654321: AccessDeniedException: not authorized" in line


# ---- What goes wrong -------------------------------------------------------------------------------------


def test_throttling_is_survived(aws, capsys):
    publish(aws)
    for operation in ("GetDatabase", "CreateTable", "BatchCreatePartition"):
        aws.answers[operation] = once(said("ThrottlingException", "Rate exceeded"))
    assert registered(aws, capsys).endswith("7 new, 0 changed, 0 gone")


def test_throttling_without_an_end_is_one_line(aws, capsys, monkeypatch):
    publish(aws)
    monkeypatch.setattr(catalog, "aws_client", lambda known, service: aws_client(known, service, attempts=2))
    aws.answers["CreateTable"] = lambda _: said("ThrottlingException", "Rate exceeded")
    line = failed(aws, capsys, 1)
    assert "ThrottlingException: Rate exceeded: AWS still asks to slow down after many tries" in line


def test_a_table_that_somebody_changes_meanwhile_is_read_again(aws, capsys):
    publish(aws)
    registered(aws, capsys)
    publish(aws, rows=8)

    def meanwhile(_):
        del aws.answers["UpdateTable"]
        table = table_input("songplays", f"{aws.output}/songplays", "20240102T030405Z-0000000a", 7)
        table["Parameters"]["team"] = "data"
        aws.glue.update_table(DatabaseName=aws.database, TableInput=table)
        return said("ConcurrentModificationException", "changed")

    aws.answers["UpdateTable"] = meanwhile
    registered(aws, capsys)
    assert [sent["VersionId"] for sent in aws.parameters("UpdateTable")][:2] == ["1", "2"]
    after = table_of(aws, "songplays")["Parameters"]
    assert (after["team"], after["numRows"]) == ("data", "8")


def test_a_table_that_somebody_changes_all_the_time_is_one_line(aws, capsys):
    publish(aws)
    registered(aws, capsys)
    publish(aws, rows=8)
    aws.answers["UpdateTable"] = lambda _: said("ConcurrentModificationException", "changed")
    assert "ConcurrentModificationException: changed: something else works there" in failed(aws, capsys, 1)
    assert len(aws.parameters("UpdateTable")) == 5


def test_what_somebody_makes_at_the_same_time_is_taken_as_it_is(aws, capsys):
    publish(aws)

    def database(_):
        del aws.answers["CreateDatabase"]
        aws.glue.create_database(DatabaseInput={"Name": aws.database})

    def table(asked):
        del aws.answers["CreateTable"]
        aws.glue.create_table(DatabaseName=aws.database, TableInput=asked["TableInput"])

    def partition(asked):
        del aws.answers["BatchCreatePartition"]
        where = {"DatabaseName": aws.database, "TableName": asked["TableName"]}
        aws.glue.create_partition(**where, PartitionInput=asked["PartitionInputList"][0])

    aws.answers.update(CreateDatabase=database, CreateTable=table, BatchCreatePartition=partition)
    registered(aws, capsys)
    assert sorted(partitions_of(aws, "songplays")) == SONGPLAYS


BATCHES = {
    "BatchCreatePartition": {"songplays": [*SONGPLAYS, ("2019", "1")]},
    "BatchDeletePartition": {"songplays": SONGPLAYS[:1]},
    "BatchUpdatePartition": {},
}


@pytest.mark.parametrize("operation", BATCHES)
def test_what_a_batch_did_not_do_is_done_again(aws, capsys, operation):
    publish(aws)
    registered(aws, capsys)
    if operation == "BatchUpdatePartition":
        changed = partition_input("songplays", "s3://elsewhere", SONGPLAYS[0])
        where = {"DatabaseName": aws.database, "TableName": "songplays"}
        aws.glue.update_partition(**where, PartitionValueList=list(SONGPLAYS[0]), PartitionInput=changed)
    publish(aws, **BATCHES[operation])
    errors = [{"ErrorDetail": {"ErrorCode": "InternalServiceException", "ErrorMessage": "lost"}}]
    aws.answers[operation] = lambda _: (200, {"Errors": errors})
    line = failed(aws, capsys, 1)
    assert f"{operation}: 1 of 1 partitions of songplays failed: InternalServiceException: lost" in line
    assert len(aws.parameters(operation)) == 5
    aws.answers[operation] = once((200, {"Errors": errors}))
    registered(aws, capsys)
    assert len(aws.parameters(operation)) == 2
    expected = BATCHES[operation].get("songplays", SONGPLAYS)
    assert partitions_of(aws, "songplays") == {
        (year, month): f"{aws.output}/songplays/year={year}/month={month}/" for year, month in expected
    }


WRITES = ["CreateDatabase", "CreateTable", "BatchCreatePartition", "UpdateTable", "BatchDeletePartition"]


@pytest.mark.parametrize("operation", WRITES)
def test_no_permission_to_write_is_one_line_that_names_it(aws, capsys, operation):
    publish(aws)
    if operation in WRITES[3:]:
        registered(aws, capsys)
        publish(aws, rows=8, songplays=SONGPLAYS[:1])
    aws.answers[operation] = lambda _: said("AccessDeniedException", "User is not authorized")
    line = failed(aws, capsys, 1)
    assert "AccessDeniedException: User is not authorized" in line
    assert f"need the permission glue:{operation} there" in line


def test_nothing_answers(aws, capsys, monkeypatch):
    publish(aws)
    monkeypatch.setattr(etl, "check_catalog", lambda _: None)
    dead = lambda known, service: aws_client({**known, "endpoint_url": "http://127.0.0.1:9"}, service, attempts=1)  # noqa: E731
    monkeypatch.setattr(catalog, "aws_client", dead)
    assert "EndpointConnectionError" in failed(aws, capsys, 1)


def test_a_run_that_publishes_meanwhile_is_noticed(aws, capsys, monkeypatch):
    publish(aws)
    names = catalog.partitions_in

    def meanwhile(table, found):
        if table == "time":
            publish(aws, run="20240103T030405Z-0000000b")
        return names(table, found)

    monkeypatch.setattr(catalog, "partitions_in", meanwhile)
    assert "another run has published its tables" in failed(aws, capsys, 1)
    assert writing(aws) == []


def test_register_can_be_called_alone(aws):
    publish(aws)
    storage = storage_of(aws.output, read_settings([]).aws)
    done = register(client_of("glue", aws.address), aws.database, storage)
    assert (done["partitions"], done["new"]) == (7, 7)


# ---- From a laptop ---------------------------------------------------------------------------------------

REPORT = {
    "tables": {name: {"rows": 7, "files": 1, "bytes": 5, "path": f"s3://x/{name}"} for name in TABLES},
    "input": {"songs": {"rejected": 0, "reasons": {}}, "logs": {"rejected": 0, "reasons": {}}},
}


def test_after_a_cluster_has_ended_well_the_tables_are_registered_from_here(aws, capsys, monkeypatch):
    def on_emr(settings):
        assert writing(aws) == []
        publish(aws)
        return REPORT

    monkeypatch.setattr(etl, "run_on_emr", on_emr)
    status, stdout, stderr = call(aws, capsys, "--emr", "--input", "s3://music/in")
    assert (status, stdout) == (0, summary(REPORT) + "\n"), stderr
    assert stderr.endswith("with 7 partitions: 7 new, 0 changed, 0 gone\n")


def test_after_a_cluster_has_failed_nothing_is_registered(aws, capsys, monkeypatch):
    def on_emr(settings):
        raise JobError("the step FAILED")

    publish(aws)
    monkeypatch.setattr(etl, "run_on_emr", on_emr)
    status, _, stderr = call(aws, capsys, "--emr", "--input", "s3://music/in")
    assert (status, stderr) == (1, "etl.py: the step FAILED\n")
    assert writing(aws) == []


# ---- The README ------------------------------------------------------------------------------------------


def readme_commands(beginning):
    lines = [line.strip() for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(beginning)]


def test_the_readmes_lines_to_the_first_query_are_taken():
    (command,) = readme_commands("python etl.py --catalog")
    settings = read_settings(command[2:])
    assert (settings.catalog["database"], settings.output) == ("sparkify", "s3://my-bucket/lake")
    start, results = readme_commands("aws athena")
    model = boto3.client("athena", REGION).meta.service_model
    options = dict(zip(start[3::2], start[4::2]))
    place = options.pop("--result-configuration").removeprefix("OutputLocation=")
    assert place.startswith("s3://my-bucket/")
    asked = {"QueryString": options.pop("--query-string"), "ResultConfiguration": {"OutputLocation": place}}
    assert (start[2], options) == ("start-query-execution", {"--query": "QueryExecutionId", "--output": "text"})
    assert (
        ParamValidator().validate(asked, model.operation_model("StartQueryExecution").input_shape).generate_report()
        == ""
    )
    assert "FROM sparkify.songplays" in asked["QueryString"]
    assert results[2:] == ["get-query-results", "--query-execution-id", "ID", "--output", "text"]


def test_the_readme_names_each_permission_that_a_call_needs():
    operations = re.findall(r'\.(?:call|find|batch)\("(\w+)"', (ROOT / "sparkify/catalog.py").read_text())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(set(operations)) == 9
    for operation in operations:
        assert operation in readme
