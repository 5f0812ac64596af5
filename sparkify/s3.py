"""A place on S3, behind the interface of storage.py."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import functools
import io
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sparkify.aws import aws_calls, aws_client, said_by_aws
from sparkify.errors import PlaceError
from sparkify.parallel import REQUESTS, in_parallel
from sparkify.places import bucket_and_key, data_files, is_hidden

OPENED_READ = 8 << 20  # bytes a request, of a file that is opened: a zip, or a range of a log
COPY_LIMIT = 5 << 30  # what S3 copies by one request
OVERTAKEN = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404")  # another was faster
LONG_LISTING = 5  # pages of 1,000 objects after which a listing is divided, unless others are under way


class S3Storage:
    """A bucket, or what lies below a key in it; methods as of LocalStorage.

    What a run needs is GET, PUT, LIST, DELETE and COPY; what else a server knows is used, and done without. Pickled, it
    is made anew in a task.
    """

    def __init__(self, place: str, aws: dict[str, str]):
        self.place, self.aws = place.rstrip("/"), aws
        self.bucket, key = bucket_and_key(self.place)
        self.above = f"{key}/" if key else ""  # what the keys of all names begin with
        with aws_calls(self.place, "s3:ListBucket"):
            self.client = aws_client(aws, "s3")
        self.client.meta.events.register("before-call.s3.CopyObject", _name_as_it_is)

    def __reduce__(self):
        return S3Storage, (self.place, self.aws)

    def path(self, name: str = "") -> str:
        return f"{self.place}/{name}" if name else self.place

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.above + name}

    # -- Listing

    def list(self, folder: str = "") -> dict[str, int]:
        names = self.everything(folder, hidden=is_hidden(folder))
        return {name: size for name, size in names.items() if not name.endswith("/")}

    def everything(self, folder: str = "", hidden: bool = True) -> dict[str, int]:
        """As LocalStorage's. A folder is listed with all below it, page by page, where many are side by side.

        Where few are, one that has more than some pages is divided into the folders in it, which go on side by side: so
        1 M objects take little more than 1,000 requests, and 2,000 take two.
        """
        found, waiting = {}, [folder.rstrip("/") + "/" if folder else ""]
        while waiting:
            most = LONG_LISTING if len(waiting) < REQUESTS // 2 else None
            listings = in_parallel(functools.partial(self._listing, most), waiting)
            waiting = []
            for objects, folders in listings:
                found.update(objects)
                waiting += [name for name in folders if hidden or not is_hidden(name)]
        return {name: size for name, size in found.items() if hidden or not is_hidden(name)}

    def _listing(self, most: int | None, prefix: str) -> tuple[dict[str, int], list[str]]:
        """What is below a prefix; where that is more than most pages, a part of it, and the folders with the rest."""
        found, folders = {}, []
        for number, (objects, _) in enumerate(self._pages(prefix), 1):
            found.update(objects)
            if number == most:
                break
        else:
            return found, []
        for objects, inner in self._pages(prefix, Delimiter="/"):
            found.update(objects)
            folders += inner
        return found, folders

    def _pages(self, prefix: str, **options: str) -> Iterator[tuple[dict[str, int], list[str]]]:
        """Of each 1,000 objects below a prefix: ({name: bytes}, with Delimiter the folders directly in it)."""
        start = len(self.above)
        options.update(Bucket=self.bucket, Prefix=self.above + prefix)
        with aws_calls(self.place, "s3:ListBucket"):
            for page in self.client.get_paginator("list_objects_v2").paginate(**options):
                objects = {entry["Key"][start:]: entry["Size"] for entry in page.get("Contents", ())}
                yield objects, [entry["Prefix"][start:] for entry in page.get("CommonPrefixes", ())]

    def folders(self, folder: str = "") -> list[str]:
        """As LocalStorage's; those in which only an upload was begun are among them."""
        prefix = f"{folder}/" if folder else ""
        found = {name[len(prefix) :].split("/")[0] for name, _ in self._unfinished(prefix)}
        for _, names in self._pages(prefix, Delimiter="/"):
            found.update(name[len(prefix) :].rstrip("/") for name in names)
        return sorted(found)

    def _unfinished(self, prefix: str) -> list[tuple[str, str]]:
        """[(name, id)] of the uploads whose parts are kept, and paid for, but were never put together.

        Not every server can list them, and it is only housekeeping: none, then.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        key = self.above + prefix
        try:
            hasty = aws_client(self.aws, "s3", attempts=2)
            pages = hasty.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=key)
            found = [(upload["Key"], upload["UploadId"]) for page in pages for upload in page.get("Uploads", ())]
        except (BotoCoreError, ClientError):
            return []
        return [(name[len(self.above) :], upload) for name, upload in found if name.startswith(key)]  # not all heed it

    # -- Reading

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        if end is not None and end <= start:
            return b""
        part = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        content, about = self._get(name, part)
        is_part = about["ResponseMetadata"]["HTTPStatusCode"] == 206  # a server may not heed the range
        return content if is_part else content[start:end]

    def _get(self, name: str, part: dict[str, str]) -> tuple[bytes, dict[str, Any]]:
        """The bytes of an object, or of a part, and what is said of it. Raises FileNotFoundError."""
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        attempts_left = 5  # boto3 repeats a request, but not one whose answer breaks off
        with self._getting(name):
            while True:
                attempts_left -= 1
                try:
                    answer = self.client.get_object(**self._object(name), **part)
                    return answer["Body"].read(), answer
                except (HTTPClientError, IncompleteReadError):
                    if not attempts_left:
                        raise

    @contextlib.contextmanager
    def _getting(self, name: str) -> Iterator[None]:
        """The calls that get an object. Raises FileNotFoundError where there is none."""
        from botocore.exceptions import ClientError

        with aws_calls(self.path(name), "s3:GetObject"):
            try:
                yield
            except ClientError as error:
                if said_by_aws(error)[0] in ("NoSuchKey", "404"):
                    raise FileNotFoundError(errno.ENOENT, "no such object", self.path(name)) from None
                raise

    def open(self, name: str) -> BinaryIO:
        with self._getting(name):
            size = self.client.head_object(**self._object(name))["ContentLength"]
        return io.BufferedReader(S3File(self, name, size), OPENED_READ)

    # -- Writing

    def write(self, name: str, content: bytes | BinaryIO) -> None:
        with aws_calls(self.path(name), "s3:PutObject"):
            self.client.put_object(**self._object(name), Body=content)

    def delete(self, names: Collection[str]) -> None:
        """Delete objects, 1,000 a request; one by one where they are few, or where the server can't do many."""
        names, left = list(names), []
        with aws_calls(self.place, "s3:DeleteObject"):
            for start in range(0, len(names), 1000):
                left += self._delete_many(names[start : start + 1000])
            in_parallel(lambda name: self.client.delete_object(**self._object(name)), left)

    def _delete_many(self, names: list[str]) -> list[str]:
        """Delete objects by one request, unless they are few; those of the names that weren't deleted."""
        from botocore.exceptions import ClientError

        if len(names) <= 2:
            return names
        objects = [{"Key": self.above + name} for name in names]
        try:
            answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
        except ClientError:  # if it's no matter of many, it will be said of the first one, too
            return names
        failed = {error.get("Key") for error in answer.get("Errors", ())}
        return [name for name in names if self.above + name in failed]

    def discard(self, folder: str) -> None:
        for name, upload in self._unfinished(f"{folder}/"):
            with aws_calls(self.path(folder), "s3:AbortMultipartUpload"):
                self.client.abort_multipart_upload(**self._object(name), UploadId=upload)
        self.delete(self.everything(folder))

    def stored(self, name: str) -> tuple[bytes, float, Any] | None:
        try:
            content, about = self._get(name, {})
        except FileNotFoundError:
            return None
        now = about["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = email.utils.parsedate_to_datetime(now).timestamp() if now else time.time()
        return content, now - about["LastModified"].timestamp(), about["ETag"]

    def write_if(self, name: str, content: bytes, version: Any) -> None:
        """As LocalStorage's, by a conditional write; by an ordinary one where the server doesn't know those."""
        from botocore.exceptions import ClientError, ParamValidationError

        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        with aws_calls(self.path(name), "s3:PutObject"):
            try:
                self.client.put_object(**self._object(name), Body=content, **condition)
            except (ClientError, ParamValidationError) as error:  # the latter from a boto3 that is older than they are
                if said_by_aws(error)[0] not in OVERTAKEN:
                    self.client.put_object(**self._object(name), Body=content)

    def upload(self, folder: str, into: str) -> None:
        """Copy the data files in a folder of this machine into a folder of the place."""

        def send(name: str) -> None:
            with open(f"{folder}/{name}", "rb") as file:
                self.write(f"{into}/{name}", file)

        in_parallel(send, data_files([path.relative_to(folder).as_posix() for path in Path(folder).rglob("*")]))

    def check_writable(self, _: Collection[str] = ()) -> None:
        """Raise PlaceError when objects can't be written, copied or deleted; leaves none behind."""
        probe = f"_staging/{uuid.uuid4().hex}/year=0"  # as the names of partitions are
        self.write(probe, b"")
        try:
            self._copy(probe, f"{probe}-copy", 0)
        except PlaceError:
            with contextlib.suppress(PlaceError):  # what is said of the copy is what to say
                self.delete([probe])
            raise
        self.delete([probe, f"{probe}-copy"])

    def _copy(self, old: str, new: str, size: int) -> None:
        lack = "this server of S3 can't copy an object (CopyObject), which publishing needs: choose another --output"
        with aws_calls(self.path(old), "s3:GetObject and s3:PutObject", lack):
            call = self.client.copy if size >= COPY_LIMIT else self.client.copy_object
            call(CopySource=self._object(old), **self._object(new))

    def replace(self, staging: str, staged: dict[str, int]) -> Iterator[str]:
        """As LocalStorage's, but S3 can't rename.

        The old files are deleted, then the new ones copied by S3 itself, many at a time. What is staged stays, and no
        two runs have a file of one name, as Spark's names hold a UUID: so it can be done again from any point.
        """
        sizes = self.list(staging)
        new = {name.removeprefix(f"{staging}/"): sizes[name] for name in data_files(sizes)}
        expected = sum(staged.values())
        if len(new) != expected:
            raise FileNotFoundError(f"{self.path(staging)} has {len(new)} of the {expected} files to be published")
        there = {name for names in in_parallel(self.everything, staged) for name in names}
        self.delete(sorted(there - set(new)))
        yield "all away"
        in_parallel(lambda name: self._copy(f"{staging}/{name}", name, new[name]), sorted(set(new) - there))
        yield "all there"


class S3File(io.RawIOBase):
    """An object of an S3Storage as a file to read and seek in, by ranged requests."""

    def __init__(self, storage: S3Storage, name: str, size: int):
        self.storage, self.name, self.size, self.at = storage, name, size, 0

    def readable(self) -> bool:
        return True

    seekable = readable

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def readinto(self, buffer: memoryview) -> int:
        content = self.storage.read(self.name, self.at, min(self.at + len(buffer), self.size))
        buffer[: len(content)] = content
        self.at += len(content)
        return len(content)


def _name_as_it_is(params: dict[str, Any], **_: Any) -> None:
    """Name the source of a copy with '=', for a server that doesn't decode it there (s3rver)."""
    headers = params["headers"]
    headers["x-amz-copy-source"] = headers["x-amz-copy-source"].replace("%3D", "=")
