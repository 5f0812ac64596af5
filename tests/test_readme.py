"""What the README says is so: its flags and keys are the program's, its commands run, its output is what they print."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tables import FOR_SECONDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in COMMANDS if line]


def command(beginning):
    (found,) = [line for line in COMMANDS if line.startswith(beginning)]
    return found


def run(line, folder, **environment):
    result = subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert result.returncode == 0, f"{line}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result


@pytest.fixture
def clone(tmp_path):
    """A copy of what is committed or about to be."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in names.stdout.splitlines():
        if (ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


# On which `python` and `spark-submit` are those of the tests.
WITH_THIS_PYTHON = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYSPARK_PYTHON": sys.executable,
    "PYSPARK_DRIVER_PYTHON": sys.executable,
    **FOR_SECONDS,
}


def test_each_flag_is_in_the_readme_and_each_flag_of_the_readme_exists():
    said = subprocess.run(
        [sys.executable, ROOT / "etl.py", "--help"], capture_output=True, text=True, check=True
    ).stdout
    flags = set(re.findall(r"--[a-z-]+", said))
    table = "\n".join(line for line in README.splitlines() if line.startswith("| `--"))
    assert set(re.findall(r"`(--[a-z-]+)", table)) == flags


def test_each_key_of_the_configuration_is_in_the_readme():
    config = configparser.ConfigParser()
    config.read(ROOT / "dl.cfg.example")
    for section in config.sections():
        assert f"`[{section}]`" in README
        for key in config[section]:
            assert key.upper() in README


def test_every_command_of_the_readme_has_its_test():
    here = ["python3 -m venv", ". .venv/bin/activate", "python data/simulate.py", "python etl.py --input more"]
    here += ["python etl.py --query", "spark-submit etl.py --input /data", "tests/run", "pip install -r tests/req"]
    in_test_s3 = ["python etl.py --input s3://"]
    in_test_emr = ["python etl.py --emr", "spark-submit --deploy-mode cluster", "aws emr-serverless"]
    in_test_postgres = ["sudo ", "export PGPASSWORD", "psql -h"]
    in_test_catalog = ["python etl.py --catalog", "aws athena"]
    in_test_redshift = ["printf", "python etl.py --load redshift", "aws redshift-data"]
    of_others = ["python -m zipfile", "aws s3 cp"]
    beginnings = (*here, *in_test_s3, *in_test_emr, *in_test_postgres, *in_test_catalog, *in_test_redshift, *of_others)
    assert [line for line in COMMANDS if not line.startswith(beginnings)] == []


def test_the_package_is_zipped_as_shown(clone):
    run(command("python -m zipfile"), clone, **WITH_THIS_PYTHON)
    with zipfile.ZipFile(clone / "sparkify.zip") as package:
        assert "sparkify/schema.py" in package.namelist()


def test_the_tables_open_as_shown(spark, sample_output, monkeypatch, capsys):
    monkeypatch.chdir(sample_output)
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import etl" in block]
    # The session of the tests works in another folder.
    exec(block.replace('"output"', repr(str(sample_output / "output"))), {})
    assert re.search(r"\| *paid\| *4402\|", capsys.readouterr().out)
