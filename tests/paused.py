"""etl.py, made to wait where a test kills it: as a program, with the instant before etl.py's own arguments.

Instants: "STEP begins" and "STEP ends", "before the journal", "the journal", each move by the name that a storage gives
it, "the journal removed", "swap before commit".
"""

import contextlib
import functools
import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sparkify.jdbc import Connection  # noqa: E402
from sparkify.publish import JOURNAL  # noqa: E402
from sparkify.report import Steps  # noqa: E402
from sparkify.s3 import S3Storage  # noqa: E402
from sparkify.storage import LocalStorage  # noqa: E402


def wait_at(instant):
    """Let this process say that it has come to an instant, and wait there."""

    def come_to(point):
        if point == instant:
            print(f"paused at {point}", file=sys.stderr, flush=True)
            time.sleep(600)

    def around(call, instants):
        """A call between two instants, where instants gives them for its arguments."""

        @functools.wraps(call)
        def wrapped(self, *arguments):
            before, after = instants(*arguments)
            come_to(before)
            answer = call(self, *arguments)
            come_to(after)
            return answer

        return wrapped

    def moves(replace):
        def wrapped(self, *arguments):
            for moved in replace(self, *arguments):
                come_to(moved)
                yield moved

        return wrapped

    @contextlib.contextmanager
    def step(self, name, begin=Steps.__call__):
        with begin(self, name):
            come_to(f"{name} begins")
            yield
        come_to(f"{name} ends")

    def of_write(name, _):
        return ("before the journal", "the journal") if name == JOURNAL else ("", "")

    def of_delete(names):
        return "", "the journal removed" if names == [JOURNAL] else ""

    def of_do(*statements):
        return "swap before commit" if statements == ("COMMIT",) else "", ""

    Steps.__call__ = step
    Connection.do = around(Connection.do, of_do)
    for storage in (LocalStorage, S3Storage):
        storage.write = around(storage.write, of_write)
        storage.delete = around(storage.delete, of_delete)
        storage.replace = moves(storage.replace)


if __name__ == "__main__":
    _, awaited, *sys.argv[1:] = sys.argv
    wait_at(awaited)
    runpy.run_path(str(ROOT / "etl.py"), run_name="__main__")
