"""The errors that a user meets, and what Java says as one line."""

import re


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
