"""What a place and the names in it are called."""

import os
import re
from collections.abc import Collection
from typing import Optional

from sparkify.errors import UsageError

HIDDEN = ("_", ".")  # names that begin so are not data, as everywhere in Hadoop
DATA_FOLDERS = {"song_data", "song-data", "log_data", "log-data"}


def is_hidden(name: str) -> bool:
    """Whether a name, or that of a folder in it, is none of data; ./ is no folder, $folder$ a marker of Hadoop's."""
    return any(part.startswith(HIDDEN) and part != "." for part in name.split("/")) or name.endswith("$folder$")


def data_files(names: Collection[str]) -> list[str]:
    """Those of some names that are a table's data: no checksums, no markers of folders."""
    found = [name for name in names if name.endswith((".parquet", ".json"))]
    return [name for name in found if not name.rpartition("/")[2].startswith(HIDDEN)]


def bucket_and_key(place: str) -> tuple[str, str]:
    """'s3://bucket/a/b' -> ('bucket', 'a/b')"""
    bucket, _, key = place[len("s3://") :].partition("/")
    return bucket, key


def is_redshift(url: Optional[str]) -> bool:
    """Whether a database is one of Amazon Redshift's."""
    return (url or "").startswith(("redshift://", "redshift-serverless://"))


def place_of(text: str) -> str:
    """What a user writes as a place -> s3://BUCKET/… or a local path. Raises UsageError for anything else."""
    on_s3 = re.fullmatch("s3a?://([^/].*?)/*", text)
    if on_s3:
        return f"s3://{on_s3[1]}"
    if re.match(r"\w+:/", text) and not text.startswith("file:"):
        raise UsageError(
            f"{text}: only s3://BUCKET/… and local folders can be used; on EMR, `s3-dist-cp --src HDFS --dest S3` "
            "copies what is on HDFS"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!a}: Spark takes no name that isn't UTF-8") from None
    return os.path.expanduser(re.sub("^file:(//)?", "", text))


def is_s3(place: str) -> bool:
    return place.startswith("s3://")


def for_hadoop(place: str) -> str:
    """A place as a path of Hadoop's and Spark's: without a scheme they would take theirs, which is HDFS on EMR."""
    return place if "://" in place else f"file:{os.path.abspath(place)}"


def literal_path(place: str) -> str:
    """A place to read from, as for_hadoop; characters that Hadoop would take for a pattern are escaped."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", for_hadoop(place))
