"""The tables in the AWS Glue Data Catalog, where Athena, Redshift Spectrum, EMR and Trino find them.

A call of register reads what is there and sends the differences: it can be repeated from any point.
"""

from __future__ import annotations

import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from sparkify.aws import aws_calls, aws_client, said_by_aws
from sparkify.config import Settings
from sparkify.errors import JobError, PlaceError, UsageError
from sparkify.parallel import in_parallel
from sparkify.places import data_files, is_s3
from sparkify.publish import published
from sparkify.report import say
from sparkify.schema import TABLES
from sparkify.storage import storage_of

RUN_PARAMETER = "sparkify.run_id"  # the parameter by which a table is known as ours, and as that of a run
PARQUET = "org.apache.hadoop.hive.ql.io.parquet"
SENT, DELETED = 100, 25  # partitions that Glue takes in a call
PAUSES = (1, 2, 4, 8)  # seconds, each before another try where something else was at work in the catalogue
AGAIN = ("ConcurrentModificationException", "AlreadyExistsException", "EntityNotFoundException")

Values = tuple[str, ...]  # of a partition, in the order of its table's keys


class Unfinished(PlaceError):
    """What Glue didn't do, and may do when what is there has been read again."""


# ---- What Glue is told -----------------------------------------------------------------------------------


def glue_columns(table: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """(the columns that are in a table's files, those that are in the names of its folders), as Glue has them."""
    contract = TABLES[table]
    columns = {
        name: {"Name": name, "Type": kind, "Comment": description}
        for name, (kind, description) in contract.columns.items()
    }
    keys = [columns.pop(name) for name in contract.partitions]
    return list(columns.values()), keys


def storage_descriptor(table: str, place: str) -> dict[str, Any]:
    """Where and how the rows of a table, or of one of its partitions, lie."""
    return {
        "Columns": glue_columns(table)[0],
        "Location": f"{place}/",
        "InputFormat": f"{PARQUET}.MapredParquetInputFormat",
        "OutputFormat": f"{PARQUET}.MapredParquetOutputFormat",
        "SerdeInfo": {
            "SerializationLibrary": f"{PARQUET}.serde.ParquetHiveSerDe",
            "Parameters": {"serialization.format": "1"},
        },
    }


def table_input(table: str, place: str, run_id: str, rows: int) -> dict[str, Any]:
    """What Glue is told of a table whose folder is place; numRows is what Spectrum and Trino plan by."""
    return {
        "Name": table,
        "Description": TABLES[table].description,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"classification": "parquet", "EXTERNAL": "TRUE", "numRows": str(rows), RUN_PARAMETER: run_id},
        "StorageDescriptor": storage_descriptor(table, place),
        "PartitionKeys": glue_columns(table)[1],
    }


def partition_input(table: str, place: str, values: Values) -> dict[str, Any]:
    """What Glue is told of a partition of a table whose folder is place."""
    folders = [f"{name}={value}" for name, value in zip(TABLES[table].partitions, values)]
    return {"Values": list(values), "StorageDescriptor": storage_descriptor(table, "/".join([place, *folders]))}


def partitions_in(table: str, names: Collection[str]) -> list[Values]:
    """The partitions in which files of a table lie, by their names; [()] for a table that has none."""
    found = set()
    for name in data_files(names):
        pairs = [folder.partition("=") for folder in name.split("/")[1:-1]]
        if tuple(key for key, _, _ in pairs) != TABLES[table].partitions:
            raise UsageError(f"{name} is not of the table {table}: remove it, or run etl.py again, which does")
        found.add(tuple(value for _, _, value in pairs))
    if not found:
        raise UsageError(f"there is no file of the table {table}: run etl.py again")
    return sorted(found)


# ---- What Glue is asked ----------------------------------------------------------------------------------


class Database:
    """A database of the Data Catalog, in the catalogue of an id, else in that of the credentials' account: its calls.

    What is said against one is raised as PlaceError, as Unfinished where it may pass.
    """

    def __init__(self, client: Any, name: str, catalog_id: str | None = None):
        self.client, self.name = client, name
        self.which = {"CatalogId": catalog_id} if catalog_id else {}

    def __str__(self) -> str:
        place = f"the catalogue {self.which['CatalogId']}" if self.which else "the AWS Glue Data Catalog"
        return f"database {self.name} of {place}"

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """What Glue answers; nothing where a database or a table isn't there."""
        from botocore import xform_name
        from botocore.exceptions import ClientError

        name = xform_name(operation)
        with aws_calls(str(self), f"glue:{operation}"):
            try:
                if self.client.can_paginate(name):
                    return self.client.get_paginator(name).paginate(**self.which, **arguments).build_full_result()
                return getattr(self.client, name)(**self.which, **arguments)
            except ClientError as error:
                code, message = said_by_aws(error)
                if code == "EntityNotFoundException" and operation in ("GetDatabase", "GetTable"):
                    return {}
                if code not in AGAIN:
                    raise
                raise Unfinished(str(self), f"{code}: {message}", "something else works there") from None

    def is_there(self) -> bool:
        """Whether there is such a database. Raises UsageError where it only stands for another."""
        found = self.call("GetDatabase", Name=self.name)
        target = found.get("Database", {}).get("TargetDatabase")
        if target:
            raise UsageError(
                f"{self} only links to another: give --catalog {target.get('DatabaseName')}, and in dl.cfg's [CATALOG] "
                f"ID = {target.get('CatalogId')}"
            )
        return bool(found)

    def make(self) -> None:
        """Make it, where it isn't there."""
        if not self.is_there():
            about = {"Name": self.name, "Description": "Sparkify's data lake: what users listen to"}
            self.call("CreateDatabase", DatabaseInput=about)

    def table(self, name: str) -> dict[str, Any] | None:
        """What Glue has of a table. Raises UsageError for one that isn't ours."""
        found = self.call("GetTable", DatabaseName=self.name, Name=name).get("Table")
        if found and RUN_PARAMETER not in found.get("Parameters", {}):
            raise UsageError(f"{self} has a table {name} that isn't etl.py's: name another --catalog, or delete it")
        return found

    def partitions(self, table: str) -> dict[Values, dict[str, Any]]:
        """The partitions of a table."""
        found = self.call("GetPartitions", DatabaseName=self.name, TableName=table)["Partitions"]
        return {tuple(partition["Values"]): partition for partition in found}

    def batch(self, operation: str, table: str, key: str, items: list[dict[str, Any]], size: int) -> None:
        """Send partitions, so many a call. Raises Unfinished when Glue hasn't done all of them."""
        errors = []
        for start in range(0, len(items), size):
            some = {key: items[start:][:size]}
            answer = self.call(operation, DatabaseName=self.name, TableName=table, **some)
            errors += [error.get("ErrorDetail", {}) for error in answer.get("Errors", ())]
        if errors:
            said = f"{errors[0].get('ErrorCode')}: {errors[0].get('ErrorMessage')}"
            failed = f"{operation}: {len(errors)} of {len(items)} partitions of {table} failed"
            raise Unfinished(str(self), f"{failed}: {said}", "see what AWS says")


# ---- The differences -------------------------------------------------------------------------------------


def register(client: Any, database: str, output: Any, catalog_id: str | None = None) -> Counter:
    """Put what is published in an output's storage into a database; counts what was "new", "changed", "gone".

    client: boto3's, of Glue. In each table first itself, then its new partitions, at last those that are gone. Raises
    UsageError, PlaceError.
    """
    about = published(output)
    files = dict(zip(TABLES, in_parallel(output.list, TABLES)))
    wanted = {table: partitions_in(table, names) for table, names in files.items()}
    if published(output) != about:
        raise UsageError(f"another run has published its tables in {output.place} meanwhile")
    there = Database(client, database, catalog_id)
    _until_done(there.make)
    done = Counter(partitions=sum(len(wanted[table]) for table in TABLES if TABLES[table].partitions))
    for table in TABLES:
        place = output.path(table)
        itself = table_input(table, place, about["run_id"], about["rows"][table])
        partitions = {values: partition_input(table, place, values) for values in wanted[table]}
        done += _until_done(functools.partial(_send, there, itself, partitions))
    return done


def _send(database: Database, wanted: dict[str, Any], partitions: dict[Values, dict[str, Any]]) -> Counter:
    """Make a table and its partitions what is wanted, by what they are."""
    name, where = wanted["Name"], {"DatabaseName": database.name}
    found = database.table(name)
    if found is None:
        database.call("CreateTable", TableInput=wanted, **where)
    elif not _holds(found, wanted):
        kept = {key: found[key] for key in ("Owner", "Retention") if key in found}
        parameters = {**found["Parameters"], **wanted["Parameters"]}
        changed = {**kept, **wanted, "Parameters": parameters}
        database.call("UpdateTable", TableInput=changed, VersionId=found["VersionId"], SkipArchive=True, **where)
    if not wanted["PartitionKeys"]:
        return Counter()
    there = database.partitions(name)
    new = [partition for values, partition in partitions.items() if values not in there]
    both = [(there[values], partition) for values, partition in partitions.items() if values in there]
    changed = [partition for before, partition in both if not _holds(before, partition)]
    changes = [{"PartitionValueList": partition["Values"], "PartitionInput": partition} for partition in changed]
    gone = [{"Values": list(values)} for values in there if values not in partitions]
    database.batch("BatchCreatePartition", name, "PartitionInputList", new, SENT)
    database.batch("BatchUpdatePartition", name, "Entries", changes, SENT)
    database.batch("BatchDeletePartition", name, "PartitionsToDelete", gone, DELETED)
    return Counter(new=len(new), changed=len(changes), gone=len(gone))


def _holds(found: Any, wanted: Any) -> bool:
    """Whether what Glue has is what is wanted; what it, or somebody, has added to a dictionary doesn't count."""
    if isinstance(wanted, dict):
        return all(_holds((found or {}).get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(found or []) == len(wanted) and all(map(_holds, found or [], wanted))
    return found == wanted


def _until_done(action: Callable[[], Any]) -> Any:
    """What an action gives, which is tried again where it is Unfinished."""
    for pause in PAUSES:
        try:
            return action()
        except Unfinished:
            time.sleep(pause)
    return action()


# ---- The command -----------------------------------------------------------------------------------------


def check_catalog(settings: Settings) -> None:
    """Raise UsageError or PlaceError when it can be seen beforehand that the tables can't be registered."""
    if not settings.catalog.get("database"):
        return
    output, database = _opened(settings)
    if settings.no_run:
        published(output)
    if database.is_there():
        for table in TABLES:
            database.table(table)


def register_published(settings: Settings) -> None:
    """Register the tables in settings.output, where settings.catalog names a database. Raises JobError."""
    if not settings.catalog.get("database"):
        return
    try:
        output, database = _opened(settings)
        done = register(database.client, database.name, output, settings.catalog.get("id"))
    except (UsageError, PlaceError, JobError) as error:
        command = f"python etl.py --catalog {settings.catalog['database']} --no-run --output {settings.output}"
        if settings.load:
            command += f" --load {settings.load}"
        raise JobError(f"{error}; the tables are not registered, or not all: run `{command}`") from None
    changes = ", ".join(f"{done[kind]} {kind}" for kind in ("new", "changed", "gone"))
    say(f"the five tables are in the {database}, with {done['partitions']} partitions: {changes}")


def database_name(settings: Settings) -> str:
    """The name of the database that settings name. Raises UsageError for one that nobody could read."""
    name = settings.catalog["database"].lower()  # as Glue keeps it
    if not re.fullmatch("[a-z0-9_-]{1,128}", name):
        raise UsageError(f"--catalog {name}: a database that Athena can read has a name of letters, digits, _ and -")
    if not is_s3(settings.output):
        raise UsageError(
            f"--catalog {name}: {settings.output} is on this machine, where Athena can't read: name an --output that "
            "begins with s3://"
        )
    return name


def _opened(settings: Settings) -> tuple[Any, Database]:
    """The storage of the output, and the database to be."""
    name = database_name(settings)
    output = storage_of(settings.output, settings.aws)
    if output.aws.get("anonymous"):
        raise UsageError("--catalog needs credentials, and there are none: run `aws configure`, or fill in dl.cfg")
    return output, Database(aws_client(output.aws, "glue"), name, settings.catalog.get("id"))
