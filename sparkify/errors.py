"""The errors that a user meets, as one line that says what to do, and how the program ends."""

import contextlib
import functools
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Optional

LEFT_DAYS = 7  # the folder of a run that was killed longer ago is removed


class UsageError(Exception):
    """Arguments, configuration or input that can't be right: one line, exit status 2."""


class JobError(Exception):
    """The job failed: one line, to which Ending adds whether the tables are published; exit status 1."""


class PlaceError(Exception):
    """What a disk or AWS says against a call: the place, what was said, and a hint what to do. One line."""

    def __init__(self, place: str, said: str, hint: str):
        super().__init__(place, said, hint)
        self.place, self.said, self.hint = place, said, hint

    def __str__(self) -> str:
        return f"{self.place}: {self.said}: {self.hint}"


def java_cause(error: Exception) -> str:
    """The innermost cause of what Java raised, one line that isn't too long."""
    try:
        said = str(error)
    except Exception:  # py4j asks Java for the text of its error
        return "Java has ended"
    causes = re.findall(r"Caused by: (.*)", said) or re.findall(r"^: (.*)", said, re.MULTILINE) or said.splitlines()[:1]
    return causes[-1].strip()[:300]


class Ending:
    """What main does around the work: its standard streams, a folder for its files, the line that an error becomes.

    outcome: what holds if something goes wrong now, such as "nothing is published"; empty before anything is begun.
    status: 0 done, 1 failed, 2 called wrongly.
    """

    def __init__(self) -> None:
        self.outcome, self.status = "", 0

    @functools.cached_property
    def work(self) -> str:
        """A folder for the files of the work. It stays where an error names a file in it; those of dead runs go."""
        for old in Path(tempfile.gettempdir()).glob("sparkify-etl-*"):
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > LEFT_DAYS * 86400:
                    shutil.rmtree(old)
        return tempfile.mkdtemp(prefix="sparkify-etl-")

    def __enter__(self) -> "Ending":
        for name in ("stdin", "stdout", "stderr"):
            if getattr(sys, name) is None:  # it is closed
                setattr(sys, name, open(os.devnull, "r+"))
        logging.getLogger().addHandler(logging.NullHandler())  # py4j's, of calls that Ctrl-C interrupts
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")
        return self

    def __exit__(self, _: Optional[type], error: Optional[BaseException], __: Optional[TracebackType]) -> bool:
        said = self.said(error) if error else ""
        if said:
            refused_early = isinstance(error, PlaceError) and not self.outcome  # before anything was begun
            self.status = 2 if isinstance(error, UsageError) or refused_early else 1
            with contextlib.suppress(OSError):  # the terminal was closed
                print(f"etl.py: {said}", file=sys.stderr, flush=True)
        work = self.__dict__.get("work")  # where it was wanted
        if work and work not in said:
            shutil.rmtree(work, ignore_errors=True)
        return bool(said)

    def said(self, error: BaseException) -> str:
        """An error as one line; empty for one that nobody foresaw."""
        outcome = f"; {self.outcome}" if self.outcome else ""
        if isinstance(error, UsageError):
            return str(error)
        if isinstance(error, (JobError, PlaceError)):
            return f"{error}{outcome}"
        if isinstance(error, KeyboardInterrupt):
            return f"interrupted{outcome}"
        if isinstance(error, OSError):
            return f"failed: {error}{outcome}"
        return ""
