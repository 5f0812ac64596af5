"""What stands in a file -> records, or the reason why not.

A file is a stream of JSON objects: one a line as a rule, several on a line, one over many lines, or all of them in one
array. Plain Python, which knows no Spark: the driver and the tasks run the same.
"""

import contextlib
import functools
import itertools
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Callable, Optional

from sparkify.errors import PlaceError
from sparkify.schema import EVENT_FIELDS, PLAY_KEY, RECORD_COLUMNS, RECORDS, SONG_FIELDS, TABLES

LAST_MS = 4_133_980_800_000  # 2101-01-01: a ts from then on is no time of a play
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANKS = b" \t\r\n"
BETWEEN = re.compile("[ \t\r\n\ufeff]*")  # what is between objects: files that were joined have byte order marks there
NOT_AN_OBJECT = "not one JSON object"
UNREADABLE = "can't be read"  # the reason of a row that stands for a whole file: raw says why
EXACT = 1 << 53  # below it a float is one whole number, and no other
LARGEST_DOUBLE = int(sys.float_info.max)
NEEDED_COLUMNS = (TABLES["songs"].key, *TABLES["songs"].never_null)
NEEDED_OF_A_SONG = [name for name, (column, _) in SONG_FIELDS.items() if column in NEEDED_COLUMNS]

WHOLE = re.compile(r"[0-9]+(\.0+)?")
BEHIND_AN_ELEMENT = re.compile(f"{BETWEEN.pattern}([],]){BETWEEN.pattern}")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")

Row = list[Any]  # the columns of schema.RECORDS; a tuple would be made anew for is_latest
TS, USER_ID, IS_LATEST = map(list(RECORDS["logs"]).index, ("ts", "user_id", "is_latest"))  # where they stand in a row
USED = (None,) * len(RECORD_COLUMNS)  # how the row of a record begins that is used
READ_TOGETHER = 100_000  # rows: of 40 MB of a log
Judgement = tuple[Optional[str], Optional[list[Any]]]  # the reason of a rejection, the values of a record


def rows_in(kind: str, contents: Iterable[tuple[str, bytes]]) -> Iterator[Row]:
    """(source, content)s of files of a kind, 'songs' or 'logs' -> the rows of their records, by RECORDS[kind].

    Where one can't be read, the last row stands for that file, with the reason UNREADABLE.
    """
    read = song_rows if kind == "songs" else event_rows

    def rows() -> Iterator[Row]:
        try:
            for source, content in contents:
                yield from read(content, source)
        except PlaceError as error:
            yield rejected(kind, UNREADABLE, error.place, f"{error.said}: {error.hint}".encode())

    return rows() if kind == "songs" else latest_marked(rows())


def song_rows(content: bytes, source: str) -> Iterator[Row]:
    """A song file -> the rows of its records, by RECORDS['songs']; a rejected one keeps its source and its text.

    A file in which no object is found, such as an empty one, is one rejected record.
    """
    content = content.removeprefix(BYTE_ORDER_MARK).strip(BLANKS)
    found = list(judged_texts(content, judged_song))
    if all(reason == NOT_AN_OBJECT for _, reason, _ in found):
        found = [(content, NOT_AN_OBJECT, None)]
    for raw, reason, values in found:
        yield rejected("songs", reason, source, raw) if reason else [*USED, *values]


def event_rows(content: bytes, source: str) -> Iterator[Row]:
    """A log, or whole lines of one -> the rows of its plays and its rejected events, by RECORDS['logs'].

    No play is marked as the latest yet. Events that are no plays are counted: a last row has their number.
    """
    others = 0
    for raw, reason, values in judged_texts(content.removeprefix(BYTE_ORDER_MARK), event_judge()):
        if reason:
            yield rejected("logs", reason, source, raw)
        elif values:
            yield [*USED, *values, False]
        else:
            others += 1
    if others:
        yield [None, None, None, others, *[None] * len(EVENT_FIELDS), False]


def latest_marked(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of events, with is_latest as it is: READ_TOGETHER of them are looked at together."""
    waiting = iter(rows)
    while together := list(itertools.islice(waiting, READ_TOGETHER)):
        latest: dict[int, int] = {}  # user_id -> ts
        for row in together:
            ts, user_id = row[TS], row[USER_ID]
            if ts is not None and ts > latest.get(user_id, -1):
                latest[user_id] = ts
        for row in together:
            row[IS_LATEST] = row[TS] is not None and row[TS] == latest[row[USER_ID]]
        yield from together


def judged_texts(content: bytes, judge: Callable[[Any], Judgement]) -> Iterator[tuple[bytes, Optional[str], Any]]:
    """(text, why it is rejected, values) of each record in a file, or in whole lines of one."""
    parse = json_parser()
    elements = array_elements(content)
    lines = elements or content.split(b"\n")
    at = 0
    while at < len(lines):
        raw = lines[at]
        reason, values = judged(raw, judge, parse)
        at += 1
        if reason:
            raw = raw.removesuffix(b"\r").removeprefix(BYTE_ORDER_MARK)
        if reason != NOT_AN_OBJECT or elements:
            yield raw, reason, values
        elif raw.strip(BLANKS):
            texts, at = objects_from(lines, at - 1)
            for part in texts or [raw]:
                yield (part, *judged(part, judge, parse))


# --- Texts: of a file, one a record -----------------------------------------------------------------------------------


def array_elements(content: bytes) -> list[bytes]:
    """The texts of the elements, where a file is one array of objects; else none."""
    if not content.lstrip(BLANKS).startswith(b"["):
        return []
    whole = content.decode("utf-8", "replace").strip()
    found, at, decode = [], BETWEEN.match(whole, 1).end(), decoder().raw_decode
    with contextlib.suppress(ValueError, RecursionError):
        while True:
            _, end = decode(whole, at)
            found.append(whole[at:end].encode())
            behind = BEHIND_AN_ELEMENT.match(whole, end)
            if behind is None:
                return []
            at = behind.end()
            if behind[1] == "]":
                return found if at == len(whole) else []
    return []


def objects_from(lines: list[bytes], first: int) -> tuple[list[bytes], int]:
    """The texts of objects that begin with a line, one behind the other, up to the end of a line; the line after it.

    An object may go over many lines. None where something else stands between or behind them.
    """
    taken, decode = 1, decoder().raw_decode
    while lines[first].lstrip(BLANKS + BYTE_ORDER_MARK).startswith(b"{"):
        beginning = b"\n".join(lines[first : first + taken]).decode("utf-8", "replace")
        found, at = [], BETWEEN.match(beginning).end()
        try:
            while at < len(beginning) and beginning[at] == "{":
                _, end = decode(beginning, at)
                found.append(beginning[at:end].encode())
                at = BETWEEN.match(beginning, end).end()
                if at == len(beginning) or "\n" in beginning[end:at]:
                    return found, first + beginning.count("\n", 0, end) + 1
            break
        except json.JSONDecodeError as error:
            is_cut = not beginning[error.pos :].strip()
            if not is_cut or first + taken >= len(lines):
                break
        except (ValueError, RecursionError):
            break
        taken *= 16
    return [], first + 1


def is_by_line(content: bytes) -> bool:
    """Whether a log that begins so has whole objects on its lines, and may be cut where a line ends."""
    line = content.lstrip(BLANKS + BYTE_ORDER_MARK).split(b"\n", 1)[0]
    return bool(objects_from([line], 0)[0]) or not line.startswith((b"{", b"["))


def judged(raw: bytes, judge: Callable[[Any], Judgement], parse: Callable[[bytes], Any]) -> Judgement:
    """What judge says of the JSON value that a text is."""
    try:
        try:
            return judge(parse(raw))
        except InexactError:
            return judge(exact_parser()(raw))
    except (ValueError, RecursionError):
        return NOT_AN_OBJECT, None


def judged_song(song: Any) -> Judgement:
    """Why a JSON value is no usable song, or the values of SONG_FIELDS."""
    if type(song) is not dict:
        return NOT_AN_OBJECT, None
    values = [read(song.get(name)) for name, read in SONG_READERS]
    for name, value in zip(SONG_FIELDS, values):
        if value is None and name in NEEDED_OF_A_SONG:
            return f"no {name}", None
    return None, values


def event_judge() -> Callable[[Any], Judgement]:
    """A function from a JSON value to why it is no usable event, or the values of EVENT_FIELDS, or neither: no play."""
    # A text is read once; equal texts become one object, pickled once in a batch of rows.
    readers = [(name, read, functools.cache(read)) for name, read in EVENT_READERS]
    key_size, ts = len(PLAY_KEY), PLAY_KEY.index("ts")

    def judge(event: Any) -> Judgement:
        if type(event) is not dict:
            return NOT_AN_OBJECT, None
        field = event.get
        page = field("page")
        if page != "NextSong":
            return (None if text(page) else "no page"), None
        values = [memo(v) if type(v := field(name)) is str else read(v) for name, read, memo in readers]
        key = values[:key_size]
        if None in key:
            return f"no whole {list(EVENT_FIELDS)[key.index(None)]}", None
        if key[ts] >= LAST_MS:
            return "ts after the year 2100", None
        return None, values

    return judge


def rejected(kind: str, reason: str, source: str, raw: bytes) -> Row:
    """The row of a record that can't be used, or, with the reason UNREADABLE, of a file."""
    about = [reason, source, raw.decode("utf-8", "replace")]
    return about + [None] * (len(RECORDS[kind]) - len(about))


# --- One value --------------------------------------------------------------------------------------------------------


def whole_number(value: Any) -> Optional[int]:
    """A whole number from 0 up to bigint's, as a JSON number or in a string: 7, '007', 26.0, '26.0'."""
    if type(value) is int:
        return value if 0 <= value < 1 << 63 else None
    if isinstance(value, float) and abs(value) < EXACT and value.is_integer():
        return whole_number(int(value))
    if type(value) is str and WHOLE.fullmatch(value):
        digits, point, _ = value.partition(".")
        exact = int(digits.lstrip("0")[:20] or 0)  # 20 digits are too many, and thousands cost time
        return None if point and exact >= EXACT else whole_number(exact)
    return None


def number(value: Any) -> Optional[float]:
    """A number that a double can hold, as a JSON number or in a string."""
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else None  # -0.0 as 0.0: of equal copies none is chosen
    if type(value) is int and abs(value) <= LARGEST_DOUBLE:
        return float(value)
    return number(float(value)) if type(value) is str and NUMBER.fullmatch(value) else None


def small_number(value: Any) -> Optional[int]:
    """A whole number that an int can hold, as a JSON number or in a string."""
    if type(value) is not int:
        exact = number(value)
        value = int(exact) if exact is not None and exact.is_integer() else None
    return value if value is not None and -(1 << 31) <= value < 1 << 31 else None


def text(value: Any) -> Optional[str]:
    """A text that isn't empty; a whole number as its text. Raises InexactError for what may be a whole number.

    It has a ? for each half of a character, which JSON's escapes can name and UTF-8 can't.
    """
    if type(value) is str:
        return (value if value.isascii() else value.encode("utf-8", "replace").decode()) or None
    if type(value) is float:
        raise InexactError
    return str(value) if type(value) is int else None


def user_agent(value: Any) -> Optional[str]:
    """A text without the quotes that wrap it."""
    agent = text(value)
    if agent and len(agent) > 1 and agent[0] == agent[-1] == '"':
        return agent[1:-1] or None
    return agent


READER_OF: dict[str, Callable[[Any], Any]] = {  # by the type of a column
    "bigint": whole_number,
    "double": number,
    "int": small_number,
    "string": text,
}
SONG_READERS = [(name, READER_OF[kind]) for name, (_, kind) in SONG_FIELDS.items()]
EVENT_READERS = [
    (name, user_agent if name == "userAgent" else READER_OF[kind]) for name, (_, kind) in EVENT_FIELDS.items()
]


# --- JSON -------------------------------------------------------------------------------------------------------------


class JsonFloat(float):
    """A number that json has read as one with a fraction or an exponent: it is no text."""


class InexactError(Exception):
    """Of orjson's floats, which it also gives for whole numbers beyond 64 bits: json has to tell."""


def decoder() -> json.JSONDecoder:
    """A reader of JSON for which NaN, Infinity and -Infinity, which Python writes, are null.

    It is made where it is used: it can't be sent to tasks.
    """
    return json.JSONDecoder(parse_float=JsonFloat, parse_constant=lambda name: None)


def exact_parser() -> Callable[[bytes], Any]:
    """A function from bytes to the JSON value that they are; ValueError or RecursionError for what is none."""
    decode = decoder().decode
    return lambda content: decode(content.decode("utf-8", "replace"))


def json_parser() -> Callable[[bytes], Any]:
    """As exact_parser, but floats may be orjson's.

    orjson, where it is installed, is only a faster road (1.3 instead of 5.7 µs a line): what it refuses is read by
    json, whose answer counts.
    """
    exact = exact_parser()
    try:
        import orjson
    except ImportError:
        return exact

    def parse(content: bytes) -> Any:
        try:
            return orjson.loads(content)
        except ValueError:
            return exact(content)

    return parse
