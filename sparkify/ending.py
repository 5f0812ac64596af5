"""How the program ends: an exit status, and for what went wrong one line that says what to do."""

import contextlib
import functools
import logging
import os
import shutil
import sys
from types import TracebackType
from typing import Optional

from sparkify.errors import JobError, PlaceError, UsageError
from sparkify.session import work_folder


class Ending:
    """What main does around the work: its standard streams, a folder for its files, the line that an error becomes.

    outcome: what holds if something goes wrong now, such as "nothing is published"; empty before anything is begun.
    status: 0 done, 1 failed, 2 called wrongly.
    """

    def __init__(self) -> None:
        self.outcome, self.status = "", 0

    @functools.cached_property
    def work(self) -> str:
        """A folder for the files of the work. It stays where an error names a file in it."""
        return work_folder()

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
