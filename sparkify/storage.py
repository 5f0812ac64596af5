"""A place, on this machine or on S3, behind one small interface.

Names are those of files below the place, with '/' between folders. What the disk or S3 says is raised as PlaceError,
what a user has to choose otherwise as UsageError.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from sparkify.aws import bucket_access
from sparkify.errors import JobError, PlaceError, UsageError
from sparkify.places import DATA_FOLDERS, bucket_and_key, is_hidden, is_s3, place_of
from sparkify.s3 import S3Storage

DISK_HINTS = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room, or ask for more of it",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
    errno.EROFS: "it can only be read: choose another folder",
    errno.ENOTDIR: "name a folder, or remove the file that is in its place",
}


def storage_of(place: str, aws: dict[str, str] | None = None) -> LocalStorage | S3Storage:
    """The storage at a place; aws: dl.cfg's [AWS]. What is missing there, such as the bucket's region, is found out."""
    place = place_of(place)
    if is_s3(place):
        return S3Storage(place, bucket_access(aws or {}, bucket_and_key(place)[0]))
    return LocalStorage(place)


# ---- This machine ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_calls(place: str) -> Iterator[None]:
    """What a disk says becomes a PlaceError, but for a file that isn't there."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        hint = DISK_HINTS.get(error.errno, "check that disk")
        raise PlaceError(str(error.filename or place), error.strerror or str(error), hint) from None


@contextlib.contextmanager
def descriptor_of(folder: str) -> Iterator[int]:
    """The descriptor of a folder, to sync or to lock it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class LocalStorage:
    """A folder of this machine, which needn't be there yet."""

    def __init__(self, place: str):
        self.place = os.path.abspath(place)

    def path(self, name: str = "") -> str:
        """The place of a file or a folder, as a user and Spark name it."""
        return os.path.join(self.place, name) if name else self.place

    def list(self, folder: str = "") -> dict[str, int]:
        """{name below the place: bytes} of the files below a folder; hidden ones only below a hidden folder."""
        names = self.everything(folder, hidden=is_hidden(folder))
        return {name: size for name, size in names.items() if not name.endswith("/")}

    def everything(self, folder: str = "", hidden: bool = True) -> dict[str, int]:
        """As list, with the hidden files, and with the folders that are empty: their names end with '/'.

        Links are followed; a folder that is there by several names is listed once, or once as data and once not.
        """
        found, seen = {}, set()
        with disk_calls(self.path(folder)):
            self._check_there(folder)
            waiting = [folder] if os.path.lexists(self.path(folder)) else []
            while waiting:
                parent = waiting.pop()
                here = os.path.realpath(self.path(parent)), frozenset(parent.split("/")).intersection(DATA_FOLDERS)
                if here in seen:
                    continue
                seen.add(here)
                entries = [entry for entry in os.scandir(self.path(parent)) if hidden or not is_hidden(entry.name)]
                if not entries and parent:
                    found[f"{parent}/"] = 0
                for entry in entries:
                    name = f"{parent}/{entry.name}" if parent else entry.name
                    if entry.is_dir():
                        waiting.append(name)
                        continue
                    try:
                        about = entry.stat()
                        if stat.S_ISREG(about.st_mode):  # a pipe would never end
                            found[name] = about.st_size
                    except FileNotFoundError:
                        if here[1]:  # elsewhere it is no matter
                            said = "it is a link to what isn't there, or is gone since"
                            raise PlaceError(entry.path, said, "remove it") from None
        return found

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders in a folder."""
        self._check_there(folder)
        with disk_calls(self.path(folder)), contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self.path(folder)) if entry.is_dir())
        return []

    def _check_there(self, folder: str) -> None:
        if not folder and not os.path.isdir(self.place):
            raise PlaceError(self.place, "there is no such folder", "name one that is there")

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of a file, from start up to before end. Raises FileNotFoundError."""
        with disk_calls(self.path(name)), open(self.path(name), "rb") as file:
            file.seek(start)
            return file.read() if end is None else file.read(end - start)

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in. Raises FileNotFoundError."""
        with disk_calls(self.path(name)):
            return open(self.path(name), "rb")  # noqa: SIM115

    def write(self, name: str, content: bytes) -> None:
        """Write a file in the place of what is there, so that it survives when the machine stops."""
        path = self.path(name)
        with disk_calls(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            new = f"{path}.{uuid.uuid4().hex}.new"
            try:
                with open(new, "xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(new, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(new)
                raise
            with contextlib.suppress(OSError), descriptor_of(os.path.dirname(path)) as folder:
                os.fsync(folder)  # not every file system can sync one

    def delete(self, names: Collection[str]) -> None:
        """Delete files, and the folders above that are empty then, up to the place itself."""
        for name in names:
            with disk_calls(self.path(name)), contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(name))
            self._remove_empty(name)

    def discard(self, folder: str) -> None:
        """Delete a folder with all that is in it, as far as that can be, and the empty folders above as delete does."""
        shutil.rmtree(self.path(folder), ignore_errors=True)
        if os.path.lexists(self.path(folder)):
            raise PlaceError(self.path(folder), "it can't be removed, or not all of it", "remove it")
        self._remove_empty(folder)

    def _remove_empty(self, name: str) -> None:
        while name:
            name = name.rpartition("/")[0]
            try:
                os.rmdir(self.path(name))
            except OSError:  # it isn't empty
                return

    def stored(self, name: str) -> tuple[bytes, float, Any] | None:
        """(content, seconds since it was written by the place's own clock, version) of a file, None where it isn't."""
        path = self.path(name)
        try:
            with disk_calls(path), open(path, "rb") as file, tempfile.TemporaryFile(dir=self.place) as probe:
                about, now = os.fstat(file.fileno()), os.fstat(probe.fileno()).st_mtime
                return file.read(), now - about.st_mtime, (about.st_ino, about.st_mtime_ns)
        except FileNotFoundError:
            return None

    def write_if(self, name: str, content: bytes, version: Any) -> None:
        """Write a file where it is still that version of stored, None: where it isn't there. Else nothing is done."""
        path = self.path(name)
        with disk_calls(path), contextlib.suppress(FileNotFoundError, FileExistsError):
            if version is None:
                os.makedirs(self.place, exist_ok=True)
                with open(path, "xb") as file:
                    try:
                        file.write(content)
                        file.flush()
                    except OSError:  # a full disk
                        os.unlink(path)
                        raise
                return
            with descriptor_of(self.place) as folder:
                with contextlib.suppress(OSError):  # where the file system knows locks, nobody else is here now
                    fcntl.flock(folder, fcntl.LOCK_EX)
                about = os.stat(path)
                if (about.st_ino, about.st_mtime_ns) == version:
                    self.write(name, content)

    def check_writable(self, moved: Collection[str] = ()) -> None:
        """Raise UsageError when no file can be made in the place, or in the next folder above that is there.

        moved: folders in the place that are to be moved away, if they are there.
        """
        place = self.place
        while not os.path.exists(place):
            if os.path.islink(place):
                raise UsageError(f"{place} is a link to what isn't there: choose another --output or --report")
            place = os.path.dirname(place)
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise UsageError(f"can't write to {place}: {error.strerror}; choose another --output or --report") from None
        for path in map(self.path, moved):
            if os.path.isdir(path) and not os.path.islink(path) and not self._can_move(path):
                raise UsageError(
                    f"{path} is another user's, or a mount point, and a run has to move it: let its owner run this, or "
                    f"do `chmod g+w {path}`; or choose another --output"
                )

    def _can_move(self, path: str) -> bool:
        """Whether a folder in the place may be renamed: that takes the right to write in it, too."""
        above = os.stat(self.place)
        is_kept = above.st_mode & stat.S_ISVTX and os.geteuid() not in (0, above.st_uid, os.stat(path).st_uid)
        may_write = os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
        return may_write and not is_kept and not os.path.ismount(path)

    def replace(self, staging: str, staged: dict[str, int]) -> Iterator[str]:
        """Put the folders that are in staging in the place of those of their names, from wherever it stopped before.

        staged: {folder: number of its data files in staging}; one with none is only taken away. After each move the
        name of it is yielded, and nothing is moved until the next is asked for. What was replaced goes to staging.
        Raises FileNotFoundError when staging is gone.
        """
        if not os.path.lexists(self.path(staging)):
            raise FileNotFoundError(f"{self.path(staging)} is gone")
        old = f"{staging}/_old"
        with disk_calls(self.path(old)):
            os.makedirs(self.path(old), exist_ok=True)
        for folder, files in staged.items():
            new = f"{staging}/{folder}"
            is_new = os.path.lexists(self.path(new))
            if os.path.lexists(self.path(folder)) and (is_new or not files):
                self.move(folder, f"{old}/{folder}")
                yield f"{folder} away"
            if is_new:
                self.move(new, folder)
                yield f"{folder} there"

    def move(self, old: str, new: str) -> None:
        """Rename a folder; never into or over one that is there, as a rename may do."""
        try:
            if os.path.lexists(self.path(new)):
                raise FileExistsError(errno.EEXIST, "it is there already")
            os.rename(self.path(old), self.path(new))
        except OSError as error:
            hint = DISK_HINTS.get(error.errno, "check that disk")
            raise JobError(f"can't move {self.path(old)} to {self.path(new)}: {error.strerror}: {hint}") from None
