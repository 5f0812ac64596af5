"""One run at a time writes to an output."""

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Optional

from sparkify.errors import JobError, UsageError

LOCK = "_lock.json"
RENEWAL = 20  # seconds between two renewals of a lock
SILENCE = 120  # seconds without a renewal after which a lock is taken over
HELD = set()  # the ids of the runs of this process that have a lock, or are after one


def this_machine() -> list[str]:
    """What tells machines, and on one its boots and containers, apart: a process number means something within it."""
    known = [socket.gethostname()]
    with contextlib.suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return known


def process_start(pid: int) -> Optional[str]:
    """When a process of this machine began, as its kernel says; '' where it can't be told, None when there is none."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # there is one, of another user
    with contextlib.suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return None if state in "ZX" else fields[18]
    return ""


class Lock:
    """The lock of a storage, held from entering to leaving. Times are of the clock of the place itself.

    Entering raises UsageError when another run holds it: one whose process lives, or is on another machine, and that
    has renewed it within SILENCE. With take, that of another machine is taken all the same, and a process that lives on
    this one is refused even when it is silent. Whoever lost it can't be told at once: check comes before each move.
    replaced: a line about the run whose lock was taken over, or None.
    """

    def __init__(self, storage: Any, run_id: str, take: bool = False):
        self.storage, self.run_id, self.take = storage, run_id, take
        self.replaced, self.done = None, threading.Event()
        owner = {"run_id": run_id, "host": socket.gethostname(), "pid": os.getpid()}
        owner["since"] = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        owner.update(machine=this_machine(), process_start=process_start(os.getpid()))
        self.text = json.dumps(owner).encode()

    def __enter__(self) -> "Lock":
        owner, silence, version = self.read()
        if version:
            dead = is_dead(owner)
            may_take = owner.get("machine") != this_machine() if self.take else silence >= SILENCE
            if not (dead or may_take):
                raise self.refusal(owner)
            run = owner.get("run_id", "without a name")
            self.replaced = f"the lock of {'dead ' if dead else ''}run {run} released"
        HELD.add(self.run_id)
        try:
            self.storage.write_if(LOCK, self.text, version)
            owner, _, _ = self.read()
            if not self.is_ours(owner):
                raise self.refusal(owner)
        except BaseException:
            HELD.discard(self.run_id)
            raise
        threading.Thread(target=self.renew, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        HELD.discard(self.run_id)
        with contextlib.suppress(Exception):  # left behind, it ends with its process
            if self.is_ours(self.read()[0]):
                self.storage.delete([LOCK])

    def check(self) -> None:
        """Raise JobError when another run has taken the lock over."""
        owner, _, _ = self.read()
        if not self.is_ours(owner):
            raise JobError(
                f"the lock of {self.storage.place} was taken over by {named(owner)}: this run was silent for "
                f"{SILENCE} seconds, or somebody used --recover"
            )

    def is_ours(self, owner: dict) -> bool:
        return owner.get("run_id") == self.run_id

    def refusal(self, owner: dict) -> UsageError:
        if self.take:
            advice = "it is still running on this machine: wait until it ends, or stop it"
        else:
            advice = (
                f"wait until it ends; if it is dead, --recover takes its lock at once, and any run does so after "
                f"{SILENCE} seconds"
            )
        return UsageError(f"{self.storage.place} is being written by {named(owner)}: {advice}")

    def renew(self) -> None:
        """Renew it again and again, until it is given back."""
        while not self.done.wait(RENEWAL):
            with contextlib.suppress(Exception):  # the next one may succeed; that it is lost is for check to find
                owner, _, version = self.read()
                if self.is_ours(owner):
                    self.storage.write_if(LOCK, self.text, version)

    def read(self) -> tuple[dict, float, Any]:
        """(what the lock says of its owner, seconds since it was renewed, its version); ({}, 0, None) without one."""
        text, silence, version = self.storage.stored(LOCK) or (b"{}", 0, None)
        try:
            owner = json.loads(text)
        except ValueError:  # it is just being written
            owner = {}
        return owner if isinstance(owner, dict) else {}, silence, version


def is_dead(owner: dict) -> bool:
    """Whether it can be told that the owner of a lock is no more: on another machine it can't."""
    pid, start = owner.get("pid"), owner.get("process_start")
    if owner.get("machine") != this_machine() or not isinstance(pid, int):
        return False
    lives = process_start(pid) is not None and process_start(pid) == start
    if lives and pid == os.getpid():
        return owner.get("run_id") not in HELD  # a run of this process that could not give its lock back
    return not lives


def named(owner: dict) -> str:
    """The owner of a lock, for a message."""
    if "run_id" not in owner:
        return "a run that its lock doesn't name"
    return f"run {owner.get('run_id')} (process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')})"
