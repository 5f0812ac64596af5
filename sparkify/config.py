"""Command line and dl.cfg -> Settings."""

from __future__ import annotations

import argparse
import configparser
import contextlib
import difflib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparkify.aws import AWS_KEYS
from sparkify.errors import UsageError
from sparkify.places import is_redshift, is_s3, place_of

# The folder of etl.py, also where a link names it; where sparkify.zip was sent along, that zip.
HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
VERSION = "1.0.0"
MAX_REJECTED = 0.01  # of the records of a kind
EMR_DEFAULTS = {
    "release": "emr-7.14.0",  # Spark 3.5, Python 3.9
    "workers": "2",
    "instance_type": "m5.xlarge",
    "service_role": "EMR_DefaultRole",
    "instance_profile": "EMR_EC2_DefaultRole",
}
REGION_KEYS = ("region", "aws_region", "aws_default_region")
CONFIG_KEYS = {
    "data": ("input", "output"),
    "aws": (*AWS_KEYS, *REGION_KEYS, "endpoint_url"),
    "emr": (*EMR_DEFAULTS, "log_uri", "subnet", "key_name", "tags"),
    "postgres": ("url", "password", "schema"),
    "redshift": ("iam_role", "db_user", "secret_arn", "schema"),
    "catalog": ("database", "id"),
}


@dataclass(frozen=True)
class Settings:
    """What a run is told: by the command line, else by dl.cfg, else by default."""

    input: str
    output: str
    report: str | None = None
    max_rejected: float = MAX_REJECTED
    query: str | None = None
    csv: bool = False
    recover: bool = False
    no_run: bool = False  # work on what lies in the output already
    dry_run: bool = False  # print what would be loaded
    cluster: str | None = None  # the EMR cluster to run the job on; "": a new one
    cluster_to_stop: str | None = None  # on EMR
    load: str | None = None  # the database that the tables are loaded into
    aws: dict[str, str] = field(default_factory=dict, repr=False)  # dl.cfg's [AWS]: holds secrets
    emr: dict[str, str] = field(default_factory=dict)  # dl.cfg's [EMR]
    postgres: dict[str, str] = field(default_factory=dict, repr=False)  # dl.cfg's [POSTGRES]: holds a password
    redshift: dict[str, str] = field(default_factory=dict)  # dl.cfg's [REDSHIFT]
    catalog: dict[str, str] = field(default_factory=dict)  # dl.cfg's [CATALOG]


def read_settings(argv: Sequence[str] | None = None) -> Settings:
    """The command line and dl.cfg -> Settings. Raises UsageError, or SystemExit as argparse does."""
    _refuse_passwords(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(argv)
    _refuse_contradictions(arguments)
    config = read_config(arguments.config)
    places = config.pop("data")
    if len([name for name in AWS_KEYS[:2] if name in config["aws"]]) == 1:
        raise UsageError("dl.cfg has only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: fill in both, or none")
    del arguments.config
    arguments.input = _input_folder(arguments.input or places.get("input") or os.path.join(HERE, "data"))
    arguments.output = place_of(arguments.output or places.get("output") or "output")
    arguments.report = arguments.report and place_of(arguments.report)
    arguments.load, arguments.catalog = _destinations(arguments, config)
    return Settings(**(config | vars(arguments)))


def _destinations(
    arguments: argparse.Namespace, config: dict[str, dict[str, str]]
) -> tuple[str | None, dict[str, str]]:
    """Where the tables of an output go besides: the URL of a database, and dl.cfg's [CATALOG] with its DATABASE.

    What dl.cfg names is left out where it can't be meant: a catalogue for an output on this machine; with --no-run,
    what its flags don't name.
    """
    only_named = arguments.no_run and bool(arguments.load or arguments.catalog)
    load, catalog = arguments.load, dict(config["catalog"])
    if not load and not only_named:
        load = config["postgres"].get("url")
    if arguments.catalog:
        catalog["database"] = arguments.catalog
    elif not is_s3(arguments.output) or (only_named and not is_redshift(load)):  # Redshift reads by the catalogue
        catalog.pop("database", None)
    if arguments.no_run and not load and "database" not in catalog:
        raise UsageError("--no-run needs --load URL, or --catalog DATABASE with an --output on S3")
    return load, catalog


# ---- The command line ------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="etl.py",
        allow_abbrev=False,
        description="Song and log JSON in, the five tables songplays, users, songs, artists and time in Parquet out.",
    )
    add = parser.add_argument
    source = "folder with song_data/ and log_data/, or with the two zips (default: data/ beside etl.py)"
    add("--input", type=_filled, help=source)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--output", type=_filled, help="folder for the five tables (default: output/)")
    output.add_argument(
        "--bucket", type=_bucket, dest="output", metavar="BUCKET", help="the same as --output s3://BUCKET"
    )
    config = "configuration (default: dl.cfg in this folder, else beside etl.py)"
    add("--config", type=_filled, metavar="FILE", help=config)
    add("--report", type=_filled, metavar="FILE", help="write the counts and the seconds of each step as JSON")
    rejected = "fail when more than this fraction of the song or log records can't be used (default: %(default)s)"
    add("--max-rejected", type=_fraction, default=MAX_REJECTED, metavar="FRACTION", help=rejected)
    instead = parser.add_mutually_exclusive_group()  # of a run here
    query = "don't run the job, but answer a SQL query of the tables in --output; -: the query is on standard input"
    instead.add_argument("--query", metavar="FILE_OR_SQL", help=query)
    add("--csv", action="store_true", help="print the whole answer to --query as CSV (default: a table)")
    recover = "don't run the job, but complete a publishing in --output that was interrupted, and release its lock"
    instead.add_argument("--recover", action="store_true", help=recover)
    load = (
        "after publishing, load the tables into a database: postgresql://USER@HOST:PORT/DATABASE, or, with --catalog, "
        "redshift://CLUSTER/DATABASE, redshift-serverless://WORKGROUP/DATABASE"
    )
    add("--load", type=_filled, metavar="URL", help=load)
    catalog = "put the tables into this database of the AWS Glue Data Catalog, where Athena and others find them"
    add("--catalog", type=_filled, metavar="DATABASE", help=catalog)
    no_run = "don't run the job: --load, or put into --catalog, what lies in --output already"
    instead.add_argument("--no-run", action="store_true", help=no_run)
    dry_run = (
        "change nothing: print the SQL by which --load redshift… loads what lies in --output, of which only the "
        "numbers of rows are read"
    )
    add("--dry-run", action="store_true", help=dry_run)
    add = instead.add_argument
    new = "run on a new EMR cluster, which ends itself"
    add("--emr", action="store_const", const="", dest="cluster", help=new)
    add("--emr-cluster", type=_filled, metavar="ID", dest="cluster", help="run on an EMR cluster that is running")
    add("--emr-stop", type=_filled, metavar="ID", dest="cluster_to_stop", help="end an EMR cluster")
    parser.add_argument("--version", action="version", version=f"etl.py {VERSION}")
    return parser


def _filled(value: str) -> str:
    """A value that isn't empty, as that of a variable may be that isn't set."""
    if not value:
        raise argparse.ArgumentTypeError("it is empty: give a value, or leave it out")
    return value


def _bucket(value: str) -> str:
    return "s3://" + re.sub("^s3a?://", "", _filled(value))


def _refuse_passwords(arguments: Sequence[str]) -> None:
    """Raise UsageError for a password in a URL: everybody on the machine can read a command line."""
    if any(re.match(r"(--[\w-]+=)?[\w-]+://[^/@:]*:.*@", argument) for argument in arguments):
        raise UsageError(
            "a URL on the command line has a password, which others can read there: leave it out, and put it in "
            "~/.pgpass, in PGPASSWORD or in dl.cfg"
        )


def _fraction(value: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(value) <= 1:
            return float(value)
    raise argparse.ArgumentTypeError(f"{value} is no fraction from 0 to 1, as 0.05 is")


def _refuse_contradictions(arguments: argparse.Namespace) -> None:
    """Raise UsageError for flags that don't go together, of which argparse doesn't know it."""
    asks, stops = arguments.query is not None, arguments.cluster_to_stop is not None
    no_tables = asks or arguments.recover or stops
    if arguments.csv and not asks:
        raise UsageError("--csv needs --query")
    if arguments.report and (no_tables or arguments.no_run or arguments.dry_run):
        raise UsageError("--report needs a run: leave it out")
    if (arguments.catalog or arguments.load) and no_tables:
        raise UsageError("--catalog and --load need a run, or --no-run: leave out --query, --recover and --emr-stop")
    if arguments.dry_run and (not is_redshift(arguments.load) or arguments.cluster is not None):
        raise UsageError("--dry-run goes only with --load redshift…: leave out the other flags")


# ---- dl.cfg ----------------------------------------------------------------------------------------------


def read_config(path: str | None = None) -> dict[str, dict[str, str]]:
    """dl.cfg as {section: {key: value}}, names in lower case, without empty values. Raises UsageError.

    It is looked for in the working folder, then beside etl.py. No message holds a value, which may be a secret.
    """
    config: dict[str, dict[str, str]] = {section: {} for section in CONFIG_KEYS}
    found = path or next(filter(os.path.isfile, ["dl.cfg", os.path.join(HERE, "dl.cfg")]), None)
    if not found:
        return config
    parser = _parsed(found)
    for section in parser.sections():
        for key, value in parser.items(section):
            if key not in CONFIG_KEYS.get(section.lower(), ()):
                raise UsageError(f"{found}: {_unknown(key, section.lower())}")
            value = re.sub(r"""^(["'])(.*)\1$""", r"\2", value.strip())
            if value:
                config[section.lower()][key] = value
    places, aws = config["data"], config["aws"]
    for key, place in places.items():
        places[key] = _with_variables(place, f"{found}: {key.upper()}")
    regions = [aws.pop(key) for key in REGION_KEYS if key in aws]
    if regions:
        aws["region"] = regions[0]
    return config


def _parsed(path: str) -> configparser.ConfigParser:
    """A configuration file. What configparser says against it may quote a line, so only its number is told."""
    # No section is special, so that the keys of one called DEFAULT are refused as unknown.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        parser.read_string("\n".join(_without_comment(line).strip() for line in lines))
    except OSError as error:
        hint = "copy dl.cfg.example to it, or leave --config out"
        raise UsageError(f"can't read the configuration {path}: {error.strerror}: {hint}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8: save it as UTF-8") from None
    except (configparser.DuplicateOptionError, configparser.DuplicateSectionError) as error:
        raise UsageError(f"{path}, line {error.lineno}: this name was used before; see dl.cfg.example") from None
    except configparser.Error as error:
        line = getattr(error, "lineno", None) or (getattr(error, "errors", None) or [["?"]])[0][0]
        raise UsageError(f"{path}, line {line}: neither [SECTION] nor KEY = value; see dl.cfg.example") from None
    return parser


def _without_comment(line: str) -> str:
    """A line up to its comment: a # or ; at the beginning or after a space, but not in a value in quotes."""
    quoted = re.match(r"""([^=:#;]*[=:]\s*(["']).*?\2)(\s+[#;]|\s*$)""", line)
    return quoted[1] if quoted else re.sub(r"(^|\s)[#;].*", "", line)


def _unknown(key: str, section: str) -> str:
    """What to say about a key that has no meaning. What isn't a plain word may be a misplaced secret: not its name."""
    is_plain = all(re.fullmatch("[a-z_]{1,24}", word) for word in (key, section))
    name = f"{key.upper()} in [{section.upper()}]" if is_plain else "a key"
    sections = {known: of for of, keys in CONFIG_KEYS.items() for known in keys}
    here = CONFIG_KEYS.get(section, ())
    close = difflib.get_close_matches(key, here, 1) or difflib.get_close_matches(key, sections, 1, 0.75)
    if not close:
        return f"{name} means nothing here; see dl.cfg.example"
    place = "" if close[0] in here else f" in [{sections[close[0]].upper()}]"
    return f"{name} means nothing here: did you mean {close[0].upper()}{place}?"


def _with_variables(place: str, said: str) -> str:
    """A place with the values of its variables, $HOME or ${HOME}."""
    for name in re.findall(r"\$\{?([A-Za-z_]\w*)", place):
        if name not in os.environ:
            raise UsageError(f"{said} uses ${name}, which isn't set: set it, or write the folder out")
    return os.path.expandvars(place)


# ---- Places ----------------------------------------------------------------------------------------------


def _input_folder(place: str) -> str:
    """The place of the input, which is a folder: for a pattern or a file the folder to name instead is told."""
    folder = place_of(place)
    is_pattern = re.search("[*?]", folder)
    is_s3_file = is_s3(folder) and re.search(r"\.(json|jsonl|ndjson|zip)(\.gz)?$", place)
    if os.path.isdir(folder) or not (is_pattern or is_s3_file or os.path.isfile(folder)):
        return folder
    inner = re.search(r"(^|(?<!/)/)((song|log)[-_]data\b|[^/]*[*?])", folder)
    above = folder[: inner.start()] if inner else os.path.dirname(folder)
    raise UsageError(f"{place}: name the folder with song_data/ and log_data/, as it is: --input {above or '.'}")
