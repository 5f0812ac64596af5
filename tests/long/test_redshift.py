"""The sample, a whole run with its load, and each table whose rows are missing."""

import json

import pytest
from tables import COLUMNS
from test_redshift import URL, assert_loaded, aws, call, loads, miscount, prepared, publish, ready, server, unchanged  # noqa: F401

pytestmark = pytest.mark.usefixtures("no_aws_from_outside")


def test_the_sample_is_loaded(aws, capsys, sample_output):
    expected = publish(aws, sample_output / "output")
    run = json.loads((sample_output / "output/_published.json").read_text())["run_id"]
    status, _, stderr = call(aws, capsys, "--no-run")
    assert status == 0, stderr
    line = f"run {run} is in {URL}, schema sparkify: songplays 6,800, users 92, songs 71, artists 50, time 6,800"
    assert stderr.splitlines()[-1] == line
    assert_loaded(aws, expected)
    assert loads(aws) == [(run, "6800", "92", "71", "50", "6800")]


def test_after_a_run_the_tables_are_loaded(aws, run_here, inputs):
    source, expected = inputs[0]
    aws.s3.create_bucket(Bucket=aws.bucket)
    arguments = ["--input", source, "--output", aws.output, "--catalog", aws.catalog, "--load", URL]
    status, line = run_here(*arguments)
    assert status == 0, line
    assert_loaded(aws, expected)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("table", [name for name in COLUMNS if name != "songplays"])
def test_other_rows_than_were_published(ready, capsys, table):
    miscount(ready, capsys, table)
