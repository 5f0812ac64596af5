"""Input for the tests: base rows, a writer of small inputs, and make_dirty, a maker of dirty input.

A kind of dirt has a name and an effect. "kept": the record is used, perhaps with a null in a field; "other
page": it is no play; "duplicate": one more copy of a play or of a song_id; "rejected": it can't be used.
Not made, because the rules leave it open: two equal keys in one object, a number with a fraction in a text
field, an integer as page, -0, half a surrogate pair, a byte order mark on a rejected record.
"""

import json
import os
import random
import re
from collections import Counter
from pathlib import Path

# ---- Base rows -------------------------------------------------------------------------------------------

BASE_SONG = {
    "num_songs": 1,
    "artist_id": "AR5KOSW1187FB35FF4",
    "artist_latitude": 49.80388,
    "artist_longitude": 15.47491,
    "artist_location": "Dubai UAE",
    "artist_name": "Elena",
    "song_id": "SOZCTXZ12AB0182364",
    "title": "Setanta matins",
    "duration": 269.58322,
    "year": 0,
}
BASE_EVENT = {
    "artist": "Elena",
    "auth": "Logged In",
    "firstName": "Lily",
    "gender": "F",
    "itemInSession": 5,
    "lastName": "Koch",
    "length": 269.58322,
    "level": "paid",
    "location": "Chicago-Naperville-Elgin, IL-IN-WI",
    "method": "PUT",
    "page": "NextSong",
    "registration": 1541048010796.0,
    "sessionId": 818,
    "song": "Setanta matins",
    "status": 200,
    "ts": 1541105830796,
    "userAgent": '"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"',
    "userId": "15",
}


def _override(base, override):
    row = {**base, **override}
    return {key: value for key, value in row.items() if value is not ...}


def song(**override):
    """BASE_SONG with other values; `...` removes the key."""
    return _override(BASE_SONG, override)


def event(**override):
    """BASE_EVENT with other values; `...` removes the key."""
    return _override(BASE_EVENT, override)


# ---- Writing ---------------------------------------------------------------------------------------------


def dump(record):
    """The record as UTF-8 JSON on one line; bytes and strings are taken as they are."""
    if isinstance(record, bytes):
        return record
    if not isinstance(record, str):
        record = json.dumps(record, ensure_ascii=False)
    return record.encode("utf-8")


def dump_raw(record, key, raw):
    """The record as JSON with the literal `raw` (str or bytes) as the value of `key`."""
    return dump({**record, key: "@raw@"}).replace(b'"@raw@"', dump(raw))


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_input(folder, songs, events):
    """Write each song to a file of its own, the events to one log file, and give the folder.

    A record is a dict, or str or bytes that are written as they are.
    """
    folder = Path(folder)
    (folder / "song_data").mkdir(parents=True, exist_ok=True)
    for number, record in enumerate(songs):
        _write(folder / f"song_data/A/A/{chr(65 + number % 26)}/TRAA{number:07}.json", dump(record))
    log = b"".join(dump(record) + b"\n" for record in events)
    _write(folder / "log_data/2018/11/2018-11-01-events.json", log)
    return folder


# ---- Kinds of dirt: name -> function of (record, rng) giving the bytes -------------------------------------

WRONG_TYPES = {"true": "true", "null": "null", "empty": '""', "object": '{"a": "x"}', "array": '["x"]'}
TEXT_FIELDS = ("artist", "firstName", "gender", "lastName", "level", "location", "song", "userAgent")
UNUSED_FIELDS = ("auth", "method", "registration", "status")
KEYS = ("userId", "sessionId", "itemInSession", "ts")
ODD_TEXTS = {
    "}{": "Him }{ Her",
    "{": "{ Braces",
    "[": "[ Brackets ]",
    "true": "true",
    "null": "null",
    "NaN": "NaN",
    "a comma and a bracket": "One, ] two ,}",
    "an object": '{"page": "Home"}',
    "quotes": '"Quoted" \\ backslash',
    "a line feed": "one\ntwo",
    "a tab": "one\ttwo",
    "U+2028": "one\u2028two",
    "U+0085": "one\u0085two",
    "U+FEFF": "one\ufefftwo",
    "a no-break space": "\u00a0one\u00a0",
    "spaces around": " one ",
    "an emoji": "one 😀 two",
    "a decomposed letter": "cafe\u0301",
}
BAD_KEYS = {
    "null": "null",
    "empty": '""',
    "true": "true",
    "object": '{"a": 7}',
    "array": "[7]",
    "12.5": "12.5",
    "'12.5'": '"12.5"',
    "'12.'": '"12."',
    "'1e3'": '"1e3"',
    "2^53 and a point": "9007199254740992.0",
    "'2^53' and a point": '"9007199254740992.0"',
    "-1.0": "-1.0",
    "-1": "-1",
    "'-7'": '"-7"',
    "'+7'": '"+7"',
    "' 7'": '" 7"',
    "'7 '": '"7 "',
    "'7\\n'": r'"7\n"',
    "2^63": "9223372036854775808",
    "'2^63'": '"9223372036854775808"',
    "2^64": "18446744073709551616",
    "thirty digits": "1" * 30,
    "letters": '"abc"',
    "'7L'": '"7L"',
    "'1_000'": '"1_000"',
    "'1,000'": '"1,000"',
    "'0x10'": '"0x10"',
    "full-width digits": '"７"',
    "Arabic digits": '"٣"',
    "'NaN'": '"NaN"',
}


def _without(record, key):
    return dump({k: v for k, v in record.items() if k != key})


def _field(key, raw):
    """A kind that puts the literal in the place of the field; without a literal, that drops the field."""
    if raw is None:
        return lambda record, rng: _without(record, key)
    return lambda record, rng: dump_raw(record, key, raw)


def _as_string(key, zeros=""):
    return lambda record, rng: dump({**record, key: zeros + str(record[key])})


def _truncated(record, rng):
    line = json.dumps(record).encode()  # ASCII, so that the cut isn't inside a character
    return line[: rng.randrange(1, len(line) - 1)]


def _end(after):
    return lambda record, rng: dump(record) + after


def _shuffled_keys(record, rng):
    keys = list(record)
    rng.shuffle(keys)
    return dump({key: record[key] for key in keys})


def _spaced(record, rng):
    return b" \t" + json.dumps(record, separators=(" ,\t", " :\r ")).encode() + b" \t "


BROKEN = {
    "truncated": _truncated,
    "two objects, a comma between": lambda record, rng: dump(record) + b"," + dump(record),
    "an array": lambda record, rng: b"[" + dump(record) + b"]",
    "an empty array": lambda record, rng: b"[]",
    "a string": lambda record, rng: dump(json.dumps(json.dumps(record))),
    "a number": lambda record, rng: b"42",
    "true": lambda record, rng: b"true",
    "null": lambda record, rng: b"null",
    "an empty object": lambda record, rng: b"{}",
    "single quotes": lambda record, rng: dump(repr(record)),
    "trailing garbage": _end(b" x"),
    "trailing brace": _end(b"}"),
    "trailing comma after": _end(b","),
    "trailing comment": _end(b" // x"),
    "leading garbage": lambda record, rng: b"x " + dump(record),
    "trailing comma within": lambda record, rng: dump(record)[:-1] + b",}",
    "trailing comma in an array": lambda record, rng: dump_raw(record, "extra", "[1,]"),
    "comment within": lambda record, rng: dump(record)[:-1] + b"/* x */}",
    "a leading zero": lambda record, rng: dump_raw(record, "extra", "07"),
    "a plus sign": lambda record, rng: dump_raw(record, "extra", "+7"),
    "a raw tab in a string": lambda record, rng: dump_raw(record, "extra", '"one\ttwo"'),
    "a raw NUL in a string": lambda record, rng: dump_raw(record, "extra", '"one\0two"'),
    "an unknown escape": lambda record, rng: dump_raw(record, "extra", r'"one\qtwo"'),
    "a bare key": lambda record, rng: dump(record)[:-1] + b", extra: 1}",
    "a form feed after": _end(b"\f"),
    "plain text": lambda record, rng: b"WARN events: queue is full",
}


def _rejected_events():
    groups = [{f"broken: {name}": make for name, make in BROKEN.items()}]
    page = {**WRONG_TYPES, "missing": None}
    groups.append({f"page: {name}": _field("page", raw) for name, raw in page.items()})
    for key in KEYS:
        bad = {**BAD_KEYS, "missing": None}
        if key == "ts":
            bad.update({"2101": "4133980800000", "'2101'": '"4133980800000"', "2^63-1": str(2**63 - 1)})
        groups.append({f"{key}: {name}": _field(key, raw) for name, raw in bad.items()})
    return groups


def _kept_events():
    kinds = {}
    for key in (*TEXT_FIELDS, *UNUSED_FIELDS, "length"):
        for name, raw in {**WRONG_TYPES, "missing": None, "integer": "42"}.items():
            kinds[f"{key}: {name}"] = _field(key, raw)
    numbers = {"'269.5'": '"269.5"', "'2.5E2'": '"2.5E2"', "' 2'": '" 2"', "'1e400'": '"1e400"', "'NaN'": '"NaN"'}
    numbers.update({"1e400": "1e400", "-1": "-1", "2.5E2": "2.5E2", "NaN": "NaN", "-Infinity": "-Infinity"})
    for name, raw in numbers.items():
        kinds[f"length: {name}"] = _field("length", raw)
    for name, raw in {"long integer": "1" * 30, "negative integer": "-5"}.items():
        kinds[f"location: {name}"] = _field("location", raw)
    agents = {
        "one quote": r'"\""',
        "two quotes": r'"\"\""',
        "two pairs": r'"\"\"x\"\""',
        "a quote before": r'"\"x"',
        "spaces outside": r'" \"x\" "',
    }
    kinds.update({f"userAgent: {name}": _field("userAgent", raw) for name, raw in agents.items()})
    for key in KEYS:
        kinds[f"{key}: a string"] = _as_string(key)
        kinds[f"{key}: zeros before"] = _as_string(key, zeros="00")
        kinds[f"{key}: forty zeros"] = _as_string(key, zeros="0" * 40)
        kinds[f"{key}: 0"] = _field(key, "0")
        kinds[f"{key}: with a point"] = lambda record, rng, key=key: dump_raw(record, key, f"{int(record[key])}.0")
        kinds[f"{key}: a string with a point"] = lambda record, rng, key=key: dump({**record, key: f"{record[key]}.00"})
        if key != "ts":
            kinds[f"{key}: 2^63-1"] = _field(key, str(2**63 - 1))
    kinds["userId: an integer"] = lambda record, rng: dump({**record, "userId": int(record["userId"])})
    kinds["ts: the last"] = _field("ts", "4133980799999")
    for name, text in ODD_TEXTS.items():
        kinds[f"text: {name}"] = _field("location", json.dumps(text, ensure_ascii=False))
        kinds[f"text, escaped: {name}"] = _field("location", json.dumps(text))
    kinds["invalid UTF-8: FF"] = _field("location", b'"one \xff two"')
    kinds["invalid UTF-8: Latin-1"] = _field("artist", b'"Beyonc\xe9 live"')
    kinds["invalid UTF-8: in a key"] = lambda record, rng: dump(record)[:-1] + b', "k\xff": 1}'
    kinds["NaN"] = lambda record, rng: dump_raw(record, "extra", "NaN")
    kinds["Infinity in a text field"] = _field("location", "Infinity")
    kinds["over many lines"] = lambda record, rng: json.dumps(record, indent=2).encode()
    kinds["over many lines, CRLF"] = lambda record, rng: json.dumps(record, indent=1).encode().replace(b"\n", b"\r\n")
    kinds["extra fields"] = lambda record, rng: dump({"extra": {"page": "Home", "ts": [{}, 1.5]}, **record})
    kinds["keys in another order"] = _shuffled_keys
    kinds["spaces between"] = _spaced
    kinds["byte order mark on a line"] = lambda record, rng: b"\xef\xbb\xbf" + dump(record)
    return kinds


def _other_pages():
    pages = {"lower case": "nextsong", "a space after": "NextSong ", "Home": "Home", "U+0085": "Next\u0085Song"}
    kinds = {
        f"page: {name}": lambda record, rng, page=page: dump({**record, "page": page}) for name, page in pages.items()
    }
    kinds["bad keys on another page"] = lambda record, rng: dump(
        {**record, "page": "Login", "userId": "", "sessionId": None, "itemInSession": 1.5, "ts": "soon"}
    )
    return kinds


def _copies():
    """Second deliveries of a play."""
    kinds = {f"copy: another {key}": _field(key, '"AAA"') for key in TEXT_FIELDS}
    kinds.update({f"copy: {key} null": _field(key, "null") for key in (*TEXT_FIELDS, "length")})
    kinds["copy: another length"] = _field("length", "0.5")
    kinds["copy: the key as strings"] = lambda record, rng: dump(
        {**record, **{key: "0" + str(record[key]) for key in KEYS}}
    )
    kinds["copy: identical"] = lambda record, rng: dump(record)
    kinds["copy: the key with points"] = lambda record, rng: dump(
        {**record, **{key: f"{record[key]}.0" for key in KEYS}}
    )
    kinds["copy: identical, in another file"] = lambda record, rng: dump(record)
    return kinds


EVENT_KINDS = {
    "kept": _kept_events(),
    "other page": _other_pages(),
    "duplicate": _copies(),
    "rejected": {name: make for group in _rejected_events() for name, make in group.items()},
}


def _kept_songs():
    """Each a song in a new file with a song_id and an artist_id of its own."""
    kinds = {}
    numbers = ("duration", "artist_latitude", "artist_longitude", "year")
    for key in ("artist_name", "artist_location", "num_songs", *numbers):
        for name, raw in {**WRONG_TYPES, "missing": None, "integer": "42", "'42'": '"42"', "NaN": "NaN"}.items():
            kinds[f"{key}: {name}"] = _field(key, raw)
    for key in numbers:
        kinds[f"{key}: '42.0'"] = _field(key, '"42.0"')
        kinds[f"{key}: 1e400"] = _field(key, "1e400")
    years = {"2000.0": "2000.0", "2e3": "2e3", "2^31": "2147483648", "2^31-1": "2147483647", "-1": "-1"}
    kinds.update({f"year: {name}": _field("year", raw) for name, raw in years.items()})
    kinds.update({f"{key}: integer": _field(key, "42") for key in ("title", "song_id", "artist_id")})
    for name, text in ODD_TEXTS.items():
        kinds[f"title: {name}"] = _field("title", json.dumps(text, ensure_ascii=False))
    kinds["pretty-printed"] = lambda record, rng: json.dumps(record, indent=4).encode() + b"\n"
    kinds["pretty-printed, CRLF"] = lambda record, rng: json.dumps(record, indent=4).encode().replace(b"\n", b"\r\n")
    kinds["byte order mark"] = lambda record, rng: b"\xef\xbb\xbf" + dump(record)
    kinds["blank lines around"] = lambda record, rng: b"\n\r\n \t" + dump(record) + b"\n\n"
    kinds["invalid UTF-8"] = _field("title", b'"one \xff two"')
    kinds["an array of one"] = lambda record, rng: b"[" + dump(record) + b"]\n"
    kinds["spaces between"] = _spaced
    return kinds


def _song_copies():
    """Each a song in a new file with the song_id of another."""
    kinds = {"copy: identical": lambda record, rng: dump(record)}
    for key in ("title", "artist_id", "artist_name", "artist_location"):
        kinds[f"copy: another {key}"] = _field(key, '"AAA"')
        kinds[f"copy: a later {key}"] = _field(key, '"zzz"')
    for key in ("year", "duration", "artist_latitude", "artist_longitude"):
        kinds[f"copy: another {key}"] = _field(key, "-1")
    for key in ("year", "duration", "artist_name", "artist_location", "artist_latitude", "artist_longitude"):
        kinds[f"copy: {key} null"] = _field(key, "null")
    return kinds


def _rival_songs():
    """Each a song in a new file with the title and artist of another, so it matches the same plays."""
    return {
        "rival: same duration": lambda record, rng: dump(record),
        "rival: longer": lambda record, rng: dump_raw(record, "duration", "9999.5"),
        "rival: no duration": _field("duration", "null"),
    }


def _rejected_songs():
    kinds = {f"broken: {name}": make for name, make in BROKEN.items()}
    kinds["empty file"] = lambda record, rng: b""
    kinds["blank file"] = lambda record, rng: b" \r\n\n"
    del kinds["broken: an array"]
    groups = [kinds]
    for key in ("song_id", "artist_id", "title"):
        bad = {**WRONG_TYPES, "missing": None}
        groups.append({f"{key}: {name}": _field(key, raw) for name, raw in bad.items()})
    return groups


SONG_KINDS = {
    "kept": {**_kept_songs(), **_rival_songs()},
    "duplicate": _song_copies(),
    "rejected": {name: make for group in _rejected_songs() for name, make in group.items()},
}
FILE_KINDS = ("CRLF", "byte order mark", "no last newline", "blank lines", "reordered", "empty log", "blank log")
JUNK = (".DS_Store", "__MACOSX/._x.json", "_hidden.json", "readme.txt", ".hidden/x.json", "x.json.bak")


# ---- Making dirty ----------------------------------------------------------------------------------------


def _taken_in_turn(groups, number, rng):
    """`number` kinds, one of each group before the second of any; all over again when they are out."""
    shuffled = [rng.sample(sorted(group), len(group)) for group in groups]
    order = [group[place] for place in range(max(map(len, shuffled))) for group in shuffled if place < len(group)]
    return [order[i % len(order)] for i in range(number)]


def _repeated(kinds, victims, repeat, rng):
    """Each kind `repeat` times as far as the victims last; what is left out is chosen at random."""
    names = [name for name in sorted(kinds) for _ in range(repeat)]
    return rng.sample(names, min(len(names), victims))


def _make_log_dirty(source, out, rng, share, done):
    logs = {}
    for path in sorted((source / "log_data").rglob("*.json")):
        logs[path.relative_to(source)] = [line for line in path.read_bytes().split(b"\n") if line]
    paths = list(logs)
    lines = {(path, number): line for path in paths for number, line in enumerate(logs[path])}
    plays = [place for place, line in lines.items() if re.search(rb'"page": ?"NextSong"', line)]
    rng.shuffle(plays)  # every kind takes its plays from the end, so no play gets two kinds

    rejected_number = min(int(len(lines) * share), len(plays) // 2)
    rejected_at, extra = set(), {path: [] for path in paths}
    for name in _taken_in_turn(_rejected_events(), rejected_number, rng):
        place = plays.pop()
        lines[place] = EVENT_KINDS["rejected"][name](json.loads(lines[place]), rng)
        rejected_at.add(lines[place])
        done[f"log, rejected, {name}"] += 1
    for effect, part in (("kept", 0.5), ("other page", 0.5), ("duplicate", 1)):
        kinds = EVENT_KINDS[effect]
        repeat = max(1, len(lines) // 20_000)
        for name in _repeated(kinds, int(len(plays) * part), repeat, rng):
            path, number = place = plays.pop()
            made = kinds[name](json.loads(lines[place]), rng)
            if effect == "duplicate":
                others = [p for p in paths if p != path] if "another file" in name else []
                extra[rng.choice(others or [path])].append(made)
            else:
                lines[place] = made
            done[f"log, {effect}, {name}"] += 1

    for index, path in enumerate(paths):
        rows = [lines[path, number] for number in range(len(logs[path]))] + extra[path]
        # Every trait is in some file even when there is one file only; with many, most files have one.
        traits = {trait for turn, trait in enumerate(FILE_KINDS[:5]) if index % 7 == turn % min(7, len(paths))}
        if "reordered" in traits or extra[path]:
            rng.shuffle(rows)
        if "byte order mark" in traits:  # not before a rejected line, whose raw text would be open
            first = next((i for i, row in enumerate(rows) if row not in rejected_at and row[:1] == b"{"), None)
            if first is None:
                traits.discard("byte order mark")
            else:
                rows[0], rows[first] = rows[first], rows[0]
                rows[0] = b"\xef\xbb\xbf" + rows[0]
        if "blank lines" in traits:
            for blank in (b"", b" ", b"\t \t", b"\r"):
                rows.insert(rng.randrange(1, len(rows) + 1), blank)
        newline = b"\r\n" if "CRLF" in traits else b"\n"
        content = newline.join(rows) + (b"" if "no last newline" in traits else newline)
        _write(out / path, content)
        done.update(f"file, {trait}" for trait in sorted(traits))
    for name, content in (("empty log", b""), ("blank log", b"\n\r\n \t\n")):
        _write(out / "log_data" / f"{name.replace(' ', '-')}-events.json", content)
        done[f"file, {name}"] += 1


def _make_songs_dirty(source, out, rng, share, done):
    originals = []
    for path in sorted((source / "song_data").rglob("*.json")):
        originals.append(path.read_bytes())
        _write(out / path.relative_to(source), originals[-1])
    made = []
    repeat = max(1, len(originals) // 5_000)
    for name in _taken_in_turn(_rejected_songs(), int(len(originals) * share), rng):
        made.append(("rejected", name))
    made += [("duplicate", name) for name in sorted(SONG_KINDS["duplicate"]) for _ in range(repeat)]
    made += [("kept", name) for name in sorted(SONG_KINDS["kept"]) for _ in range(repeat)]
    for number, (effect, name) in enumerate(made):
        record = json.loads(rng.choice(originals))
        if effect != "duplicate":
            record["song_id"] = f"SODIRTY{number:011}"
        if effect == "kept" and not name.startswith("rival"):
            record["artist_id"] = f"ARDIRTY{number:011}"
        if effect == "kept" and name == "song_id: integer":
            content = dump_raw(record, "song_id", str(4_200_000 + number))
        else:
            content = SONG_KINDS[effect][name](record, rng)
        code = f"TR{chr(65 + number % 26)}{chr(65 + number // 26 % 26)}D{number:013}"
        _write(out / "song_data" / code[2] / code[3] / code[4] / f"{code}.json", content)
        done[f"song, {effect}, {name}"] += 1


def _write_junk(out, done):
    """Entries that a reader has to pass by; each would add a song or a play."""
    for folder, content in (("song_data", dump(song(song_id="SOJUNK"))), ("log_data", dump(event(userId="999999")))):
        places = [folder, *(os.path.join(folder, name) for name in sorted(os.listdir(out / folder)))]
        for place in [place for place in places if (out / place).is_dir()][:2]:
            for name in JUNK:
                _write(out / place / name, content)
                done[f"junk, {name}"] += 1


def make_dirty(folder, out, seed, share=0.009):
    """Write a dirty copy of the input `folder` (song_data/ and log_data/) to `out`.

    The same seed gives the same bytes. At most `share` of the songs and of the log lines are rejected, so a
    small input can't have every rejected kind: all of them need about 6,000 songs and 20,000 events. One of
    each group of them (broken, page, a key) comes before the second of any; every kind of another effect is
    put in while there are plays to take. Gives a Counter of what was put in, named "log, EFFECT, KIND",
    "song, EFFECT, KIND", "file, KIND" and "junk, NAME".
    """
    source, out, rng, done = Path(folder), Path(out), random.Random(seed), Counter()
    _make_log_dirty(source, out, rng, share, done)
    _make_songs_dirty(source, out, rng, share, done)
    _write_junk(out, done)
    return done


def every_kind():
    """The names of everything that make_dirty can put in."""
    names = {f"log, {effect}, {name}" for effect, kinds in EVENT_KINDS.items() for name in kinds}
    names |= {f"song, {effect}, {name}" for effect, kinds in SONG_KINDS.items() for name in kinds}
    return names | {f"file, {name}" for name in FILE_KINDS} | {f"junk, {name}" for name in JUNK}
