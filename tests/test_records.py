"""The rules of a record, case by case: plain Python, without Spark."""

import itertools
import json
import random
import sys
import time

import dirty
import pytest
from dirty import BASE_EVENT, BASE_SONG, dump, dump_raw, event, song
from rows import judged_events, judged_songs, raw, read

from sparkify import records

BIGINT_MAX = 2**63 - 1
LAST_MS = 4133980799999  # the last of the year 2100


@pytest.fixture(params=["json", "orjson"], autouse=True)
def parser(request, monkeypatch):
    """Each rule holds with and without orjson."""
    if request.param == "json":
        monkeypatch.setitem(sys.modules, "orjson", None)


# --- Texts --------------------------------------------------------------------------------------------------


def test_a_user_agent_loses_its_wrapping_quotes():
    expected = {
        '"Mozilla/5.0 (X11)"': "Mozilla/5.0 (X11)",
        "Mozilla/5.0 (X11)": "Mozilla/5.0 (X11)",
        '"Say \\"hi\\""': 'Say \\"hi\\"',
        '""twice""': '"twice"',
        '"before': '"before',
        'behind"': 'behind"',
        ' "outside" ': ' "outside" ',
        '"é😀"': "é😀",
        '"': '"',
        '""': None,
        "": None,
        None: None,
        ...: None,
    }
    found = judged_events({agent: event(userAgent=agent) for agent in expected})
    assert {agent: row.user_agent for agent, row in found.items()} == expected


def test_an_empty_text_is_null():
    names = ["artist", "song", "level", "location", "userAgent", "firstName", "lastName", "gender"]
    columns = ["artist", "song", "level", "location", "user_agent", "first_name", "last_name", "gender"]
    (row,) = judged_events({"": event(**dict.fromkeys(names, ""))}).values()
    assert (row.reason, (row.ts is not None)) == (None, True)
    assert [row[column] for column in columns] == [None] * 8
    (row,) = judged_songs({"": song(artist_name="", artist_location="")}).values()
    assert (row.reason, row.artist_name, row.artist_location) == (None, None, None)


def test_texts_stay_as_they_are():
    texts = {**dirty.ODD_TEXTS, "}": "}", "]": "]", "false": "false", "an array": "[1]", "a pair": '"}{"'}
    texts["an object on its own"] = "{}"
    for lines in (
        {name: json.dumps(event(song=text), ensure_ascii=False) for name, text in texts.items()},
        {name: json.dumps(event(song=text)) for name, text in texts.items()},
    ):
        found = judged_events(lines)
        assert {name: (row.reason, row.song) for name, row in found.items()} == {n: (None, t) for n, t in texts.items()}
    found = judged_songs({name: song(title=text) for name, text in texts.items()})
    assert {name: (row.reason, row.title) for name, row in found.items()} == {n: (None, t) for n, t in texts.items()}


# --- Rejected records ---------------------------------------------------------------------------------------

LINE = json.dumps(BASE_EVENT)
SONG_LINE = json.dumps(BASE_SONG)


def broken(line):
    """What isn't one JSON object, made of a line that is."""
    return {
        "two objects, a comma between": f"{line},{line}",
        "an empty array": "[]",
        "a string": json.dumps(line),
        "a number": "42",
        "true": "true",
        "null": "null",
        "truncated": line[:-1],
        "truncated in a string": line[: line.index("Elena") + 2],
        "a brace": "{",
        "a brace more": line + "}",
        "garbage behind": line + " x",
        "a scalar behind": line + " 1",
        "a string behind": line + ' "x"',
        "an array behind": line + "[]",
        "garbage before": "x" + line,
        "single quotes": repr(json.loads(line)),
        "a bare key": line[:-1] + ", extra: 1}",
        "a comma too many": line[:-1] + ",}",
        "a comment": line + " // x",
        "plain text": "WARN events: queue is full",
        "a quote": '"',
    }


def test_a_line_that_is_not_one_json_object_is_rejected():
    cases = broken(LINE)
    found = judged_events(cases)
    assert {case: row.reason for case, row in found.items()} == dict.fromkeys(cases, "not one JSON object")
    assert not any((row.ts is not None) for row in found.values())


def test_a_song_file_that_is_not_one_json_object_is_rejected():
    cases = {**broken(SONG_LINE), "empty": "", "blank": " \n"}
    found = judged_songs(cases)
    assert {case: row.reason for case, row in found.items()} == dict.fromkeys(cases, "not one JSON object")


def test_a_rejected_record_keeps_its_source_and_its_raw_text():
    lines = [LINE, "no JSON \u2028 é😀\t", raw(BASE_EVENT, "ts", "null"), "{}"]
    found = [(row.source, row.raw) for row in read("logs", "\n".join(lines), "source")]
    assert found == [(None, None), *[("source", line) for line in lines[1:]]]
    found = [(row.source, row.raw) for text in (SONG_LINE, "{\n}", f"[{SONG_LINE},]") for row in read("songs", text)]
    assert found == [(None, None), ("source", "{\n}"), ("source", f"[{SONG_LINE},]")]


NO_TEXT = {"null": "null", "empty": '""', "true": "true", "false": "false", "an array": "[1]", "an object": '{"a": 1}'}


def test_a_line_without_a_page_is_rejected():
    cases = {case: raw(BASE_EVENT, "page", literal) for case, literal in NO_TEXT.items()}
    cases.update({"missing": event(page=...), "an array of it": event(page=["NextSong"])})
    cases["no field at all"] = "{}"
    found = judged_events(cases)
    assert {case: row.reason for case, row in found.items()} == dict.fromkeys(cases, "no page")


NO_WHOLE_NUMBER = {
    **NO_TEXT,
    "[]": "[]",
    "{}": "{}",
    "'12.'": '"12."',
    "'12.5'": '"12.5"',
    "2^53 with a point": "9007199254740992.0",
    "'2^53' with a point": '"9007199254740992.0"',
    "NaN itself": "NaN",
    "12.5": "12.5",
    "' 7'": '" 7"',
    "'7 '": '"7 "',
    "'+7'": '"+7"',
    "'-7'": '"-7"',
    "-1": "-1",
    "'-0'": '"-0"',
    "-1.0": "-1.0",
    "'1e3'": '"1e3"',
    "2^63": "9223372036854775808",
    "'2^63'": '"9223372036854775808"',
    "forty digits": "1" * 40,
    "'7a'": '"7a"',
    "'7L'": '"7L"',
    "'0x10'": '"0x10"',
    "'1_000'": '"1_000"',
    "'1,000'": '"1,000"',
    "'1 000'": '"1 000"',
    "'7d'": '"7d"',
    "full-width": '"７"',
    "Arabic": '"٣"',
    "NaN": '"NaN"',
    "'null'": '"null"',
    "'true'": '"true"',
    "'[7]'": '"[7]"',
    "a tab": r'"\t7"',
    "a NUL": r'"7\u00007"',
}
KEYS = ("userId", "sessionId", "itemInSession", "ts")


def test_a_play_whose_key_is_not_of_whole_numbers_is_rejected():
    cases = {(key, case): raw(BASE_EVENT, key, literal) for key in KEYS for case, literal in NO_WHOLE_NUMBER.items()}
    cases.update({(key, "missing"): event(**{key: ...}) for key in KEYS})
    found = judged_events(cases)
    assert {case: row.reason for case, row in found.items()} == {case: f"no whole {case[0]}" for case in cases}


def test_a_key_may_be_a_number_or_a_string_of_digits():
    numbers = {"7": 7, '"7"': 7, '"007"': 7, "0": 0, '"0"': 0, '"' + "0" * 40 + '7"': 7, " 7 ": 7, "7.0": 7}
    numbers.update({'"7.0"': 7, '"007.00"': 7, "7e0": 7, "1e3": 1000})
    largest = {str(BIGINT_MAX): BIGINT_MAX, f'"{BIGINT_MAX}"': BIGINT_MAX}
    cases = {
        (column, literal): (raw(BASE_EVENT, key, literal), number)
        for key, column in zip(KEYS, ("user_id", "session_id", "item_in_session", "ts"))
        for literal, number in {**numbers, **(largest if key != "ts" else {})}.items()
    }
    found = judged_events({case: line for case, (line, _) in cases.items()})
    for case, row in found.items():
        assert (case, row.reason, (row.ts is not None), row[case[0]]) == (case, None, True, cases[case][1])


def test_a_play_is_from_1970_to_the_end_of_2100():
    moments = {0: None, LAST_MS: None, LAST_MS + 1: "ts after the year 2100", BIGINT_MAX: "ts after the year 2100"}
    found = judged_events({moment: event(ts=moment) for moment in moments})
    assert {moment: row.reason for moment, row in found.items()} == moments


def test_other_pages_are_not_looked_into():
    cases = {
        (key, case): raw(event(page="Login"), key, literal) for key in KEYS for case, literal in NO_WHOLE_NUMBER.items()
    }
    cases["after 2100"] = event(page="Login", ts=LAST_MS + 1)
    cases["a page alone"] = '{"page": "Login"}'
    found = judged_events(cases)
    assert {case: (row.reason, (row.ts is not None)) for case, row in found.items()} == dict.fromkeys(
        cases, (None, False)
    )


def test_a_song_without_song_id_artist_id_or_title_is_rejected():
    cases = {
        (key, case): raw(BASE_SONG, key, literal)
        for key in ("song_id", "artist_id", "title")
        for case, literal in NO_TEXT.items()
    }
    cases.update({(key, "missing"): song(**{key: ...}) for key in ("song_id", "artist_id", "title")})
    found = judged_songs(cases)
    assert {case: row.reason for case, row in found.items()} == {case: f"no {case[0]}" for case in cases}


def test_a_pretty_printed_song_is_a_record():
    cases = {"indented": json.dumps(BASE_SONG, indent=4), "CRLF": json.dumps(BASE_SONG, indent=4).replace("\n", "\r\n")}
    cases["one line"] = SONG_LINE
    found = judged_songs(cases)
    assert set(found.values()) == {found["one line"]}
    assert (found["one line"].reason, found["one line"].title) == (None, "Setanta matins")


# --- Wrong types in other fields ----------------------------------------------------------------------------

EVENT_COLUMNS = {
    **{name: name for name in ("artist", "song", "level", "location", "gender", "length")},
    **{"userAgent": "user_agent", "firstName": "first_name", "lastName": "last_name"},
}
SONG_COLUMNS = ("artist_name", "artist_location", "artist_latitude", "artist_longitude", "duration", "year")
NO_NUMBER = {
    **NO_TEXT,
    "text": '"269,5"',
    "blank before": '" 2"',
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "1e400": "1e400",
    "-1e400": "-1e400",
}
NO_INT = {**NO_NUMBER, "2000.5": "2000.5", "'2000.5'": '"2000.5"'}
NO_INT = {**NO_INT, "2^31": "2147483648", "'2^31'": '"2147483648"'}
NESTED = {"nested": '{"song": {"artist": [true]}, "page": "Home"}', "an array of objects": '[{"page": "Home"}, [[]]]'}


def assert_null_alone(found, plain, column_of):
    """Each case (field, …) has a null in that field's column and differs from the plain row in nothing else."""
    for case, row in found.items():
        column = column_of[case[0]]
        assert (case, row.asDict()) == (case, {**plain.asDict(), column: None})


def test_a_wrong_type_in_another_field_of_an_event_makes_that_field_null_alone():
    cases = {
        (name, case): raw(BASE_EVENT, name, literal)
        for name in EVENT_COLUMNS
        for case, literal in {**(NO_NUMBER if name == "length" else NO_TEXT), **NESTED}.items()
    }
    cases.update({(name, "missing"): event(**{name: ...}) for name in EVENT_COLUMNS})
    found = judged_events({"plain": event(), **cases})
    plain = found.pop("plain")
    assert plain.ts is not None
    assert_null_alone(found, plain, EVENT_COLUMNS)


def test_a_wrong_type_in_another_field_of_a_song_makes_that_field_null_alone():
    wrong = {"artist_name": NO_TEXT, "artist_location": NO_TEXT, "year": NO_INT}
    cases = {
        (name, case): raw(BASE_SONG, name, literal)
        for name in SONG_COLUMNS
        for case, literal in {**wrong.get(name, NO_NUMBER), **NESTED}.items()
    }
    cases.update({(name, "missing"): song(**{name: ...}) for name in SONG_COLUMNS})
    found = judged_songs({"plain": song(), **cases})
    plain = found.pop("plain")
    assert plain.reason is None
    assert_null_alone(found, plain, dict(zip(SONG_COLUMNS, SONG_COLUMNS)))


def test_a_wrong_type_in_one_field_does_not_hide_a_text_that_looks_like_one():
    odd = ("true", "false", "[1]", "{}", '{"a": 1}', "[", "null")
    cases = {
        (literal, text): dump_raw(event(song=text, location=text), "artist", literal).decode()
        for literal, text in itertools.product(NO_TEXT.values(), odd)
    }
    found = judged_events(cases)
    for (literal, text), row in found.items():
        assert (literal, row.reason, row.artist, row.song, row.location) == (literal, None, None, text, text)


def test_several_wrong_types_in_one_record_are_null_each():
    wrong = event(artist=True, song=[1], level={"a": 1}, location=False, length="x", userAgent=[], firstName={})
    row = judged_events({"": wrong})[""]
    columns = ("artist", "song", "level", "location", "length", "user_agent", "first_name")
    assert [row[column] for column in columns] == [None] * 7
    assert (row.reason, (row.ts is not None), row.last_name, row.gender) == (None, True, "Koch", "F")


def test_a_number_in_a_text_field_is_its_text_or_null():
    row = judged_events({"": event(song=42, location=-7)})[""]
    assert row.reason is None
    assert row.song in ("42", None)
    assert row.location in ("-7", None)


def test_a_number_is_the_double_that_it_stands_for():
    numbers = {"-0.0": 0.0, "-0": 0.0, "15" + "0" * 307: 1.5e308, "-2": -2.0, '"2.5"': 2.5, "18" + "0" * 307: None}
    found = judged_events({literal: raw(BASE_EVENT, "length", literal) for literal in numbers})
    assert {literal: repr(row.length) for literal, row in found.items()} == {
        literal: repr(number) for literal, number in numbers.items()
    }


def test_fields_that_nobody_asked_for_are_passed_by():
    extra = {"extra": {"page": "Home", "ts": [{}, 1.5]}, "PAGE": "Home", "userid": "16", "": 1, "song_id": True}
    row, plain = judged_events({"extra": {**extra, **BASE_EVENT, "more": "}{"}, "plain": event()}).values()
    assert row == plain
    row, plain = judged_songs({"extra": {**BASE_SONG, "TITLE": "x", "more": [[]]}, "plain": song()}).values()
    assert row == plain


@pytest.mark.parametrize("kind", ["songs", "logs"])
def test_every_kind_of_dirt_has_the_effect_that_it_was_made_for(kind):
    kinds, base = {"songs": (dirty.SONG_KINDS, BASE_SONG), "logs": (dirty.EVENT_KINDS, BASE_EVENT)}[kind]
    effects = {(effect, name): make for effect, makers in kinds.items() for name, make in makers.items()}
    effects.pop(("rejected", "broken: an array"), None)  # as a line of several; alone in a file it holds records
    wrong = {}
    for case, make in effects.items():
        (row,) = read(kind, make(base, random.Random(1)))
        effect = "rejected" if row.reason else "other page" if row.others else "kept"
        if effect != ("kept" if case[0] == "duplicate" else case[0]):
            wrong[case] = row.reason
    assert wrong == {}


# --- Lines and files ------------------------------------------------------------------------------------------


def raws(content):
    """The texts of the lines of a log, none of which can be used."""
    return [row.raw for row in read("logs", content)]


def test_a_line_ends_with_a_line_feed_or_crlf_and_nothing_else():
    texts = ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e", "\r"]
    lines = [f'{{"pages": "one{text}two"}}' for text in texts]
    assert raws("\n".join(lines)) == raws("\r\n".join([*lines, ""])) == lines


def test_what_is_no_line_is_no_record():
    contents = {
        b"\xef\xbb\xbf" + b'{"pages": "A"}\n': ['{"pages": "A"}'],
        b"\n\r\n \t \n": [],
        b'\n{"pages": "B"}\n\n \n{"pages": "C"}': ['{"pages": "B"}', '{"pages": "C"}'],
        b"\xef\xbb\xbf\n": [],
        b"": [],
        b'{"pages": "\xff\xe9"}\n': ['{"pages": "\ufffd\ufffd"}'],
    }
    assert {content: raws(content) for content in contents} == contents


def test_a_song_file_is_one_record_whatever_is_around_it():
    pretty = json.dumps(BASE_SONG, indent=2).encode()
    contents = [pretty, b"\xef\xbb\xbf" + pretty + b"\r\n", b"\n\r\n \t" + dump(BASE_SONG) + b" \t\n\n"]
    assert [row.title for content in contents for row in read("songs", content)] == ["Setanta matins"] * 3


def test_events_that_are_no_plays_are_counted():
    lines = [dump(event(page=page)) for page in ("Home", "NextSong", "Login", "Home")]
    found = [(row.ts is not None, row.others) for row in read("logs", b"\n".join(lines))]
    assert found == [(True, None), (False, 3)]


@pytest.mark.parametrize(
    ("together", "latest"), [(100, {("1", 7), ("2", 3)}), (3, {("1", 7), ("2", 3), ("2", 1)}), (1, None)]
)
def test_the_latest_plays_of_each_user_are_marked_copies_among_them(monkeypatch, together, latest):
    monkeypatch.setattr(records, "READ_TOGETHER", together)
    moments = [("1", 5), ("2", 3), ("1", 7), ("1", 7), ("2", 1), ("1", 6)]
    content = b"\n".join(dump(event(userId=user, ts=ts)) for user, ts in [*moments, ("2", "no ts")])
    found = [(row.user_id, row.ts, row.is_latest) for row in read("logs", content)]
    expected = [(int(user), ts, latest is None or (user, ts) in latest) for user, ts in moments]
    assert found == [*expected, (None, None, False)]


def test_half_a_character_is_a_question_mark():
    assert [row.song for row in read("logs", raw(BASE_EVENT, "song", r'"one \ud83d two \uDE00"'))] == ["one ? two ?"]


@pytest.mark.parametrize("depth", [500, 100_000])
def test_deep_nesting_ends_nothing(depth):
    (row,) = read("logs", raw(BASE_EVENT, "extra", "[" * depth + "]" * depth))
    assert row.reason in (None, "not one JSON object")


# --- Streams of objects ---------------------------------------------------------------------------------------

FIRST, SECOND, THIRD = (dump(event(itemInSession=number)) for number in (1, 2, 3))
PRETTY = json.dumps(event(itemInSession=3), indent=2).encode()


def items(content):
    """item_in_session of each play in a log, None for a rejected record."""
    return [row.item_in_session for row in read("logs", content)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (FIRST + SECOND, [1, 2]),
        (FIRST + b" " + SECOND + b"\t\n" + THIRD, [1, 2, 3]),
        (FIRST + SECOND + b"x", [None]),
        (FIRST + b"," + SECOND, [None]),
        (FIRST + b"\n" + PRETTY + b"\n" + SECOND, [1, 3, 2]),
        (FIRST + b"\r\n" + PRETTY.replace(b"\n", b"\r\n") + b"\r\n" + SECOND + b"\r\n", [1, 3, 2]),
        (PRETTY + PRETTY + b"\n" + FIRST, [3, 3, 1]),
        (b"\xef\xbb\xbf" + PRETTY, [3]),
        (FIRST + b"\xef\xbb\xbf" + SECOND, [1, 2]),  # files with a mark that were joined
        (FIRST + b"\n\xef\xbb\xbf" + PRETTY + b"\n\xef\xbb\xbf" + SECOND + b"\xef\xbb\xbf" + FIRST, [1, 3, 2, 1]),
        (b"[" + FIRST + b"," + SECOND + b"]", [1, 2]),
        (b"\xef\xbb\xbf[\n" + FIRST + b",\n" + SECOND + b"\n]\n", [1, 2]),
        (b"[\n" + PRETTY + b",\n" + FIRST + b"\n]", [3, 1]),
        (b"[" + FIRST + b", 7, " + SECOND + b"]", [1, None, 2]),
        (b"[" + FIRST + b"]\n" + SECOND, [None, 2]),
        (b"[]", [None]),
        (FIRST[:50] + b"\n" + SECOND, [None, 2]),
        (FIRST[:50] + b"\n" + PRETTY + b"\n" + SECOND, [None, 3, 2]),
        (PRETTY[:60] + b"\n" + SECOND, None),
    ],
)
def test_a_log_is_a_stream_of_objects(content, expected):
    found = items(content)
    if expected is None:  # cut off in the middle: each line is rejected, and the next is read
        assert found[-1] == 2
        assert set(found[:-1]) == {None}
    else:
        assert found == expected


def test_a_song_file_is_a_stream_of_objects():
    one, two = dump(song(song_id="S1")), dump(song(song_id="S2"))
    whole = [
        one + two,
        one + b"\n" + two + b"\n",
        b"[" + one + b", " + two + b"]",
        b"[\n" + one + b",\n" + two + b"\n]",
    ]
    whole.append(json.dumps(song(song_id="S1"), indent=1).encode() + b"\n" + two)
    whole.append(one + b"\r\n\r\n \n" + two)
    for content in whole:
        assert [row.song_id for row in read("songs", content)] == ["S1", "S2"]


def test_of_a_song_file_only_the_broken_lines_are_rejected():
    one, two = dump(song(song_id="S1")), dump(song(song_id="S2"))
    for content, bad in ((one + b"\n" + two[:-1] + b"\n" + two, two[:-1]), (one + b"\nx\n" + two, b"x")):
        found = read("songs", content)
        assert [row.song_id for row in found] == ["S1", None, "S2"]
        assert (found[1].reason, found[1].raw) == ("not one JSON object", bad.decode())
    for content in (one + b"," + two, b"{\n" + one[:-1] + b"\nx", b"[7, 8]"):
        assert [(row.reason, row.raw) for row in read("songs", content)] == [("not one JSON object", content.decode())]


def test_many_songs_in_one_file_take_no_more_than_their_own_time():
    content = b"\n".join(dump(song(song_id=f"S{number}")) for number in range(5_000))
    pretty = b"\n".join(json.dumps(song(song_id=f"S{number}"), indent=1).encode() for number in range(5_000))
    for many in (content, pretty):
        began = time.process_time()
        assert len(read("songs", many)) == 5_000
        assert time.process_time() - began < 30  # 5,000 times the rest of the file would take minutes


def test_many_objects_on_one_line_are_many_records():
    assert items(FIRST * 5000) == [1] * 5000


def test_lines_that_are_cut_off_take_no_more_than_their_own_time():
    lines = [FIRST[: 50 + number % 300] for number in range(20_000)]
    began = time.process_time()
    assert set(items(b"\n".join(lines))) == {None}
    assert time.process_time() - began < 30  # 20,000 times the rest of the file would take hours
