"""The command line and dl.cfg: what they mean, and what is refused in one line, before Spark starts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import etl
from sparkify import config
from sparkify.config import HERE, Settings, read_settings
from sparkify.errors import UsageError

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
KEYS = "AWS_ACCESS_KEY_ID = AKIDEXAMPLE\nAWS_SECRET_ACCESS_KEY = "


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder, and no dl.cfg beside etl.py."""
    monkeypatch.setattr(config, "HERE", str(tmp_path / "beside"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def settings(here):
    """The Settings of a dl.cfg and a command line."""

    def read(content, *arguments):
        (here / "dl.cfg").write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_settings(list(arguments))

    return read


@pytest.fixture
def refused(settings):
    """What is said against a dl.cfg and a command line: one line without the secret."""

    def read(content, *arguments):
        with pytest.raises(UsageError) as refusal:
            settings(content, *arguments)
        line = str(refusal.value)
        assert "\n" not in line
        assert SECRET.lower() not in line.lower()
        return line

    return read


# ---- The command line ------------------------------------------------------------------------------------


LOAD_NOT_WITH = [["--query", "SELECT 1"], ["--recover"], ["--emr-stop", "j-1"]]


@pytest.mark.parametrize(
    "url", ["postgresql://ann:{}@host/d", "postgres://ann:{}/x@host:5432/d", "redshift-serverless://a:{}@h/d"]
)
@pytest.mark.parametrize("arguments", [["--load", "URL"], ["--load=URL"], ["--laod", "URL"], ["URL"]])
def test_a_password_on_the_command_line_is_refused_and_not_printed(url, arguments, capsys):
    with pytest.raises(UsageError) as refusal:
        read_settings([argument.replace("URL", url.format(SECRET)) for argument in arguments])
    said = capsys.readouterr()
    assert str(refusal.value).startswith("a URL on the command line has a password")
    assert SECRET not in f"{refusal.value}{said.out}{said.err}"


def test_a_database_is_named_by_dl_cfg_and_by_load(settings):
    content = f"[Postgres]\nurl = postgresql://a@h/d\nPassword = '{SECRET}'\nschema = s\n"
    found = settings(content, "--no-run")
    assert (found.load, found.no_run) == ("postgresql://a@h/d", True)
    assert (found.postgres["password"], found.postgres["schema"]) == (SECRET, "s")
    assert SECRET not in repr(found)
    assert settings(content, "--load", "postgresql://b@h/e").load == "postgresql://b@h/e"


def test_a_query_may_hold_what_looks_like_a_password(settings):
    sql = "SELECT 'https://a:b@c' AS address"
    assert settings("", "--query", sql).query == sql


BOTH = "[POSTGRES]\nURL = postgresql://a@h/d\n[CATALOG]\nDATABASE = music\n"


@pytest.mark.parametrize(
    ("arguments", "load", "database"),
    [
        (["--output", "lake"], "postgresql://a@h/d", None),  # which no catalogue can have
        (["--output", "lake", "--catalog", "c"], "postgresql://a@h/d", "c"),  # refused later, by name
        (["--output", "s3://b"], "postgresql://a@h/d", "music"),
        (["--output", "s3://b", "--no-run"], "postgresql://a@h/d", "music"),
        (["--output", "s3://b", "--no-run", "--catalog", "c"], None, "c"),
        (["--output", "s3://b", "--no-run", "--load", "postgresql://h/e"], "postgresql://h/e", None),
        (["--output", "s3://b", "--no-run", "--load", "redshift://c/d"], "redshift://c/d", "music"),
    ],
)
def test_dl_cfg_names_a_database_and_a_catalogue_where_they_can_be_meant(settings, arguments, load, database):
    found = settings(BOTH, *arguments)
    assert (found.load, found.catalog.get("database")) == (load, database)


def test_without_arguments_the_sample_goes_to_output():
    assert read_settings([]) == Settings(f"{config.HERE}/data", "output")


def test_the_command_line_goes_before_dl_cfg(settings):
    content = "[Data]\ninput = a\nOutput = b\n"
    assert settings(content) == Settings("a", "b")
    assert settings(content, "--input", "c", "--bucket", "d") == Settings("c", "s3://d")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--speed", "11"], "--speed"),
        (["--out", "lake"], "--out"),  # no abbreviations
        (["lake"], "lake"),
        *((["--max-rejected", value], "--max-rejected") for value in ["2", "-0.1", "abc", "nan", "", "1.0001"]),
        *(([flag], flag) for flag in ["--input", "--output", "--bucket", "--config", "--report", "--max-rejected"]),
        (["--emr", "--emr-stop", "j-1"], "--emr-stop"),
        (["--bucket", "lake", "--output", "lake"], "--output: not allowed with argument --bucket"),
        *(([flag, ""], f"{flag}: it is empty") for flag in ["--input", "--output", "--bucket", "--emr-cluster"]),
        (["--csv"], "--csv needs --query"),
        (["--no-run"], "--no-run needs --load URL"),
        *((["--load", "postgresql://h/d", *other], "--catalog and --load need a run") for other in LOAD_NOT_WITH),
        (["--load", "postgresql://h/d", "--no-run", "--report", "r.json"], "--report needs a run"),
        (["--load", ""], "--load: it is empty"),
        (["--query", "SELECT 1", "--report", "r.json"], "--report needs a run"),
        (["--emr-stop", "j-1", "--report", "r.json"], "--report needs a run"),
        (["--recover", "--query", "SELECT 1"], "--query: not allowed with argument --recover"),
        (["--recover", "--report", "r.json"], "--report needs a run"),
        (["--recover", "--emr"], "--emr: not allowed with argument --recover"),
        (["--emr", "--query", "SELECT 1"], "--query: not allowed with argument --emr"),
        (["--no-run", "--emr", "--load", "postgresql://h/d"], "--emr: not allowed with argument --no-run"),
        (["--no-run", "--query", "SELECT 1", "--catalog", "x"], "--query: not allowed with argument --no-run"),
        (["--no-run", "--report", "r.json", "--catalog", "x"], "--report needs a run"),
        (["--config", "other.cfg"], "other.cfg: No such file"),
        (["--config", "."], "configuration .: Is a directory"),
        (["--input", "gs://bucket/in"], "gs://bucket/in: only s3://BUCKET/… and local folders"),
        (["--output", "s3://"], "s3://: only s3://BUCKET/… and local folders"),
        (["--output", "s3:/lake"], "s3:/lake: only s3://BUCKET/… and local folders"),
        (["--output", "lake\udce9"], "no name that isn't UTF-8"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_status_2(arguments, said, here, capsys):
    try:
        status = etl.main(arguments)
    except SystemExit as end:  # argparse's way
        status = end.code
    stdout, stderr = capsys.readouterr()
    line = stderr.splitlines()[-1]
    assert (status, stdout) == (2, "")
    assert line.startswith("etl.py: ")
    assert said in line
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("flag", ["--input", "--output", "--report"])
def test_hdfs_is_refused_with_a_way_to_s3(refused, flag):
    line = refused("", flag, "hdfs://node:8020/lake")
    assert line.startswith("hdfs://node:8020/lake: only s3://")
    assert "s3-dist-cp" in line


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("s3://lake/in/", "s3://lake/in"),
        ("s3a://lake", "s3://lake"),
        ("file:///data/in", "/data/in"),
        ("file:/data/in", "/data/in"),
        ("~/in", f"{Path.home()}/in"),
        ("$in", "$in"),  # the shell has expanded what was meant so
    ],
)
def test_a_place_has_several_spellings(place, meant):
    assert read_settings(["--output", place]).output == meant


@pytest.mark.parametrize("bucket", ["lake", "s3://lake", "s3a://lake/"])
def test_a_bucket_may_be_an_address(bucket):
    assert read_settings(["--bucket", bucket]).output == "s3://lake"


@pytest.mark.parametrize(
    ("place", "folder"),
    [
        ("s3a://b/song_data/*/*/*/*.json", "s3://b"),
        ("s3://b/in/log-data/2018/11/2018-11-01-events.json", "s3://b/in"),
        ("s3://b/in/*/*.json", "s3://b/in"),
        ("s3://b/in/events.jsonl", "s3://b/in"),
        ("s3://b/in/song-data.zip", "s3://b/in"),
        ("in/song_data/?/*.json", "in"),
        ("log_data/*.json", "."),
        ("in/x", "in"),
    ],
)
def test_for_a_pattern_or_a_file_as_input_the_folder_to_name_is_told(refused, here, place, folder):
    (here / "in").mkdir()
    (here / "in/x").write_text("{}")
    assert refused("", "--input", place) == (
        f"{place}: name the folder with song_data/ and log_data/, as it is: --input {folder}"
    )


@pytest.mark.parametrize("place", ["[ab] {c,d}*", "s3://b/in [2018]", "s3://b/events.json/", "nowhere"])
def test_a_folder_with_an_odd_name_may_be_the_input(here, place):
    (here / "[ab] {c,d}*").mkdir()
    assert read_settings(["--input", place]).input == place.rstrip("/")


def test_a_report_may_go_here_into_a_folder_or_to_s3(here):
    (here / "reports").mkdir()
    for report in ("report.json", "reports/report.json", "s3://lake/new/report.json"):
        assert read_settings(["--report", report]).report == report


# ---- dl.cfg ----------------------------------------------------------------------------------------------


def test_the_example_is_a_configuration_that_says_nothing(settings):
    example = Path(HERE, "dl.cfg.example").read_bytes()
    assert settings(example) == read_settings([]) == Settings(f"{config.HERE}/data", "output")


def test_dl_cfg_is_looked_for_here_then_beside_etl_py(here):
    (here / "beside").mkdir()
    (here / "beside/dl.cfg").write_text("[DATA]\nOUTPUT = beside\n")
    assert read_settings([]).output == "beside"
    (here / "dl.cfg").write_text("[DATA]\nOUTPUT = here\n")
    assert read_settings([]).output == "here"
    assert read_settings(["--config", "beside/dl.cfg"]).output == "beside"


def test_a_link_to_etl_py_finds_what_is_beside_the_real_file(here):
    clone = here / "clone"
    shutil.copytree(Path(HERE, "sparkify"), clone / "sparkify")
    shutil.copy(Path(HERE, "etl.py"), clone)
    (clone / "dl.cfg").write_text("[DATA]\nOUTPTU = x\n")
    (here / "etl.py").symlink_to(clone / "etl.py")
    run = subprocess.run([sys.executable, "etl.py"], text=True, capture_output=True)
    said = f"etl.py: {clone}/dl.cfg: OUTPTU in [DATA] means nothing here: did you mean OUTPUT?\n"
    assert (run.returncode, run.stderr) == (2, said)


def test_a_link_to_the_package_finds_what_is_beside_the_real_one(here):
    shutil.copytree(Path(HERE, "sparkify"), here / "clone/sparkify")
    (here / "sparkify").symlink_to(here / "clone/sparkify")
    program = [sys.executable, "-c", "import sparkify.config; print(sparkify.config.HERE)"]
    run = subprocess.run(program, text=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    assert (run.stdout, run.stderr) == (f"{here}/clone\n", "")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (f"AWS_SESSION_TOKEN = {SECRET}  # mine", SECRET),
        (f"aws_session_token={SECRET} ; mine = yours", SECRET),
        (f"\tAWS_Session_Token: '{SECRET}' #", SECRET),
        ("AWS_SESSION_TOKEN = a#b;c", "a#b;c"),
        ("AWS_SESSION_TOKEN = #abc", None),
        ("AWS_SESSION_TOKEN = ; a comment's", None),
        ('AWS_SESSION_TOKEN = "a # b" # c"d', "a # b"),
        ("AWS_SESSION_TOKEN = a=b%(c)s$HOME", "a=b%(c)s$HOME"),
        ("AWS_SESSION_TOKEN = abc'", "abc'"),
        ("""AWS_SESSION_TOKEN = "abc'""", """\"abc'"""),
        ("; AWS_SESSION_TOKEN = a\n  # AWS_SESSION_TOKEN = b", None),
    ],
)
def test_a_comment_begins_after_a_space_and_not_in_quotes(settings, line, value):
    assert settings(f"# Mine.\n[AWS]  # keys\n{line}\n").aws.get("aws_session_token") == value


@pytest.mark.parametrize(
    "lines", ["REGION=us-west-2 ; oregon", "AWS_REGION = us-west-2", "AWS_DEFAULT_REGION = us-west-2",
              "AWS_DEFAULT_REGION = us-east-1\nREGION = us-west-2", "REGION =\nAWS_REGION = us-west-2"]
)  # fmt: skip
def test_the_region_has_the_names_that_aws_gives_it(settings, lines):
    assert settings(f"[AWS]\n{lines}\n").aws == {"region": "us-west-2"}


def test_indented_lines_are_lines_of_their_own(settings):
    read = settings(f"[AWS]\n  {KEYS}{SECRET}\n    REGION = eu-west-1\n[DATA]\n  INPUT = in\n")
    assert read.aws["aws_secret_access_key"] == SECRET
    assert (read.aws["region"], read.input) == ("eu-west-1", "in")


def test_settings_are_shown_without_the_secret(settings):
    read = settings(f"[AWS]\n{KEYS}{SECRET}\n")
    assert read.aws["aws_secret_access_key"] == SECRET
    assert SECRET not in repr(read)


@pytest.mark.parametrize("place", ["$LAKE/in", "${LAKE}/in", "'$LAKE/in'  # mine"])
def test_variables_in_places_have_their_values(settings, monkeypatch, place):
    monkeypatch.setenv("LAKE", "s3://lake")
    read = settings(f"[DATA]\nINPUT = {place}\nOUTPUT = ~/lake$1\n")
    assert (read.input, read.output) == ("s3://lake/in", f"{Path.home()}/lake$1")


@pytest.mark.parametrize("place", ["$LAKE", "s3://${LAKE}/in"])
def test_a_variable_that_is_not_set_is_refused(refused, monkeypatch, place):
    monkeypatch.delenv("LAKE", raising=False)
    assert refused(f"[DATA]\nOUTPUT = {place}\n").startswith("dl.cfg: OUTPUT uses $LAKE, which isn't set")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[DATA]\nINPTU = a", "INPTU in [DATA] means nothing here: did you mean INPUT?"),
        ("[EMR]\nworker = a", "WORKER in [EMR] means nothing here: did you mean WORKERS?"),
        ("[DATE]\nINPUT = a", "INPUT in [DATE] means nothing here: did you mean INPUT in [DATA]?"),
        ("[AWS]\nOUTPUT = a", "OUTPUT in [AWS] means nothing here: did you mean OUTPUT in [DATA]?"),
        ("[DEFAULT]\nSECRET_ACCESS_KEY = a", "did you mean AWS_SECRET_ACCESS_KEY in [AWS]?"),
        ("[AWS]\nCOLOUR = a", "COLOUR in [AWS] means nothing here; see dl.cfg.example"),
        (f"[AWS]\n{SECRET} = 1", "a key means nothing here"),
        (f"[{SECRET}]\nREGION = 1", "a key means nothing here: did you mean REGION in [AWS]?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_may_be_meant(refused, line, said):
    assert said in refused(f"{line}\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"AWS_SECRET_ACCESS_KEY = {SECRET}\n", "line 1: neither [SECTION] nor KEY = value"),
        (f"[AWS]\n\n{SECRET}\n", "line 3: neither [SECTION] nor KEY = value"),
        (f"[AWS]\n{KEYS}{SECRET}\n  = {SECRET}\n=\n", "line 5"),
        (f"[AWS]\n{KEYS}{SECRET}\naws_secret_access_key = {SECRET}\n", "line 4: this name was used before"),
        (f"[AWS\n{KEYS}{SECRET}\n", "line 1"),
        (f"[{SECRET}]\na = 1\n[{SECRET}]\n", "line 3: this name was used before"),
        (f"[AWS]\n{SECRET} = 1\n{SECRET} = 2\n", "line 3: this name was used before"),
        (f"[AWS]\nAWS_SECRET_ACCESS_KEY = {SECRET}\n", "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (f"[AWS]\n{KEYS}{SECRET}\nNAME = \xff\n".encode("latin-1"), "is not UTF-8"),
        (f"[AWS]\n{KEYS}{SECRET}\n".encode("utf-16"), "is not UTF-8: save it as UTF-8"),
        (f"[AWS]\n{KEYS}{SECRET}\n".encode("utf-16-le"), "neither [SECTION] nor KEY"),
    ],
)
def test_a_malformed_configuration_is_refused_and_not_shown(refused, here, content, said):
    line = refused(content)
    assert line.startswith("dl.cfg")
    assert said in line
    (here / "dl.cfg").rename(here / "other.cfg")
    assert re.search(r"other\.cfg|dl\.cfg has only one", refused("", "--config", "other.cfg"))


def test_a_byte_order_mark_is_no_matter(settings):
    assert settings("\ufeff[DATA]\nINPUT = in\n").input == "in"
