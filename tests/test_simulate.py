"""The simulator in data/, and the sample that it made: pytest tests/test_simulate.py"""

import datetime
import json
import re
import subprocess
import sys
import zipfile
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parent.parent / "data"
ZIPS = "song-data.zip", "log-data.zip"
# Runs the simulator as it is run by hand, then says how much memory it took at most.
MEASURED = """
import resource, runpy, sys
sys.argv[0] = "simulate.py"
runpy.run_path({script!r}, run_name="__main__")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run(*arguments):
    """Runs the simulator. Returns the finished process."""
    command = [sys.executable, str(DATA / "simulate.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)


def simulated(out, *arguments):
    """Runs the simulator into out, which must work. Returns {path below out: bytes}."""
    done = run(out, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def json_members(archive):
    """A zip -> {path: text} of its records, passing over what a Mac leaves there as every reader must."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.endswith(".json")]
        return {name: opened.read(name).decode() for name in names if not re.search(r"(^|/)[._]", name)}


def plays_of(events):
    return [event for event in events if event["page"] == "NextSong"]


@pytest.fixture(scope="module")
def songs():
    return [json.loads(text) for text in json_members(DATA / "song-data.zip").values()]


@pytest.fixture(scope="module")
def days():
    """{path: its events} of the sample's log."""
    members = json_members(DATA / "log-data.zip")
    return {path: [json.loads(line) for line in text.splitlines()] for path, text in members.items()}


@pytest.fixture(scope="module")
def events(days):
    """All events of the sample in the order of ts."""
    return [event for path in sorted(days) for event in days[path]]


@pytest.fixture(scope="module")
def sessions(events):
    """[the events of one session], in the order in which the sessions began."""
    by_session = defaultdict(list)
    for event in events:
        by_session[event["sessionId"]].append(event)
    return list(by_session.values())


# ---- The same arguments, the same bytes -------------------------------------------------------------------


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, info.date_time, archive.read(info)) for info in archive.infolist()]


def test_the_sample_is_what_the_simulator_makes_without_options(tmp_path):
    simulated(tmp_path, "--zip")
    for name in ZIPS:
        assert contents(tmp_path / name) == contents(DATA / name)


def test_the_sample_is_identical_byte_by_byte(tmp_path):
    # zlib-ng, which some Pythons are built with, packs the same contents into other bytes.
    if not re.fullmatch(r"1\.\d+(\.\d+)*", zlib.ZLIB_RUNTIME_VERSION):
        pytest.skip(f"zlib {zlib.ZLIB_RUNTIME_VERSION} isn't the ordinary one")
    assert simulated(tmp_path, "--zip") == {name: (DATA / name).read_bytes() for name in ZIPS}


def test_the_folders_hold_the_same_records_as_the_zips(tmp_path):
    texts = {**json_members(DATA / ZIPS[0]), **json_members(DATA / ZIPS[1])}
    assert simulated(tmp_path) == {path: text.encode() for path, text in texts.items()}


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    size = "--songs", 30, "--events", 500
    first = simulated(tmp_path / "first", *size, "--seed", 7)
    assert simulated(tmp_path / "again", *size, "--seed", 7) == first
    other = simulated(tmp_path / "other", *size, "--seed", 8)
    assert not set(other.values()) & set(first.values())


# ---- Counts and places ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("songs", "events", "days"), [(0, 0, 1), (0, 40, 3), (3, 1, 30), (50, 3000, 1), (700, 999, 400), (6, 20000, 2)]
)
def test_there_are_exactly_as_many_songs_and_events_as_asked_for(tmp_path, songs, events, days):
    files = simulated(tmp_path, "--songs", songs, "--events", events, "--days", days, "--start", "2019-02-27")
    log = [path for path in files if path.startswith("log_data/")]
    assert len(files) - len(log) == songs
    assert sum(files[path].count(b"\n") for path in log) == events
    assert len(log) <= days
    for path in log:
        assert re.fullmatch(r"log_data/(\d{4})/(\d\d)/\1-\2-\d\d-events\.json", path)
        assert "2019-02-27" <= path[-22:-12] <= str(datetime.date(2019, 2, 27) + datetime.timedelta(days))
        assert_day_in_order(path, [json.loads(line) for line in files[path].splitlines()])


def assert_day_in_order(path, events):
    times = [event["ts"] for event in events]
    assert times == sorted(times)
    utc = datetime.timezone.utc
    assert {str(datetime.datetime.fromtimestamp(ts / 1000, utc).date()) for ts in times} == {path[-22:-12]}


def test_all_events_of_a_file_are_of_its_utc_day_and_in_order(days):
    assert len(days) == 30
    for path, events in days.items():
        assert_day_in_order(path, events)


def test_a_song_lies_in_the_folders_that_its_file_name_says():
    paths = list(json_members(DATA / "song-data.zip"))
    assert len(paths) == 71
    for path in paths:
        assert re.fullmatch(r"song_data/([A-Z])/([A-Z])/([A-Z])/TR\1\2\3[A-Z]{2}[0-9A-F]{11}\.json", path)


def test_ids_of_songs_are_unique(songs):
    assert len({song["song_id"] for song in songs}) == len(songs)
    assert all(re.fullmatch("SO[A-Z]{5}[0-9A-F]{11}", song["song_id"]) for song in songs)


def test_every_record_has_its_keys_in_order(songs, events):
    song_keys = "num_songs artist_id artist_latitude artist_longitude artist_location artist_name song_id title"
    assert {" ".join(song) for song in songs} == {f"{song_keys} duration year"}
    names = "artist auth firstName gender itemInSession lastName length level location method page registration"
    assert {" ".join(event) for event in events} == {f"{names} sessionId song status ts userAgent userId"}


# ---- What makes the sample like the real data -------------------------------------------------------------


def repeated(songs, *names):
    """The groups of songs that agree in these fields, of two or more."""
    groups = defaultdict(list)
    for song in songs:
        groups[tuple(song[name] for name in names)].append(song)
    return [group for group in groups.values() if len(group) > 1]


HIDDEN = (*("firstName", "lastName", "gender", "location", "userAgent", "registration"), *("song", "artist", "length"))
AWKWARD_SONGS = {
    "an artist without coordinates": lambda s: s["artist_latitude"] is None and s["artist_longitude"] is None,
    "an artist with coordinates": lambda s: -90 < s["artist_latitude"] < 90 if s["artist_latitude"] else False,
    "an empty location": lambda s: s["artist_location"] == "",
    "a year 0": lambda s: s["year"] == 0,
    "a year": lambda s: 1950 < s["year"] < 2019,
    "a title that isn't ASCII": lambda s: not s["title"].isascii(),
    "a title with quotes": lambda s: '"' in s["title"],
    "a name of an artist that isn't ASCII": lambda s: not s["artist_name"].isascii(),
}
AWKWARD_EVENTS = {
    "a browser in quotes": lambda e: e["userAgent"] and re.fullmatch('".+"', e["userAgent"]),
    "a browser without quotes": lambda e: e["userAgent"] and '"' not in e["userAgent"],
    "a play of a title with quotes": lambda e: e["song"] and '"' in e["song"],
    "a play of a title that isn't ASCII": lambda e: e["song"] and not e["song"].isascii(),
    "a name that isn't ASCII": lambda e: e["firstName"] and not e["firstName"].isascii(),
    "a free play": lambda e: e["song"] and e["level"] == "free",
    "a paid play": lambda e: e["song"] and e["level"] == "paid",
}


@pytest.mark.parametrize("what", AWKWARD_SONGS)
def test_the_catalogue_of_the_sample_has(what, songs):
    assert any(AWKWARD_SONGS[what](song) for song in songs)


@pytest.mark.parametrize("what", AWKWARD_EVENTS)
def test_the_log_of_the_sample_has(what, events):
    assert any(AWKWARD_EVENTS[what](event) for event in events)


def test_slashes_of_browsers_are_escaped_in_the_text_of_the_log():
    text = "".join(json_members(DATA / "log-data.zip").values())
    assert r"Mozilla\/5.0" in text
    assert "Mozilla/5.0" not in text


def test_the_zips_hold_the_entries_that_a_mac_adds():
    for name in ZIPS:
        names = zipfile.ZipFile(DATA / name).namelist()
        assert any(entry.startswith("__MACOSX/") and entry.endswith(".json") for entry in names)
        assert any(entry.endswith("/.DS_Store") for entry in names)


def test_an_artist_has_two_names(songs):
    by_artist = repeated(songs, "artist_id")
    assert any(len({song["artist_name"] for song in group}) == 2 for group in by_artist)


def test_two_recordings_of_one_title_and_artist_are_played_each_with_its_length(songs, events):
    groups = repeated(songs, "title", "artist_id", "artist_name")
    assert groups
    for group in groups:
        lengths = {
            event["length"]
            for event in plays_of(events)
            if (event["song"], event["artist"]) == (group[0]["title"], group[0]["artist_name"])
        }
        durations = [song["duration"] for song in group]
        assert len(set(durations)) == len(group)
        assert all(any(abs(length - duration) <= 0.5 for length in lengths) for duration in durations)


def test_a_quarter_to_two_fifths_of_the_plays_match_a_song(songs, events):
    catalogue = {(song["title"], song["artist_name"]) for song in songs}
    plays = plays_of(events)
    matched = [event for event in plays if (event["song"], event["artist"]) in catalogue]
    assert 0.25 < len(matched) / len(plays) < 0.40


def test_neither_title_nor_artist_alone_tells_a_song(songs, events):
    titles, artists = {song["title"] for song in songs}, {song["artist_name"] for song in songs}
    catalogue = {(song["title"], song["artist_name"]) for song in songs}
    unmatched = [e for e in plays_of(events) if (e["song"], e["artist"]) not in catalogue]
    assert any(event["song"] in titles for event in unmatched)
    assert any(event["artist"] in artists for event in unmatched)


def test_most_events_are_plays_and_every_page_occurs(events):
    pages = Counter(event["page"] for event in events)
    assert 0.82 < pages["NextSong"] / len(events) < 0.88
    assert set(pages) == {
        *("NextSong", "Home", "Login", "Logout", "Upgrade", "Submit Upgrade", "Downgrade", "Submit Downgrade"),
        *("Settings", "Save Settings", "Help", "About", "Error"),
    }
    assert {event["status"] for event in events} == {200, 307, 404}


def test_a_few_songs_are_played_often_and_most_once_or_twice(events):
    plays = Counter((event["artist"], event["song"]) for event in plays_of(events))
    assert plays.most_common(1)[0][1] > 40
    assert sum(times <= 2 for times in plays.values()) > len(plays) / 2


def test_who_is_logged_out_has_no_name_but_a_level(events):
    logged_out = [event for event in events if event["auth"] == "Logged Out"]
    assert logged_out
    for event in logged_out:
        assert {event[name] for name in HIDDEN} == {None}
        assert event["userId"] == "" and event["level"] in ("free", "paid")
    assert all(event["userId"].isdigit() for event in events if event["auth"] == "Logged In")


# ---- Listeners --------------------------------------------------------------------------------------------


def test_the_events_of_a_session_are_counted_from_0_and_follow_each_other(sessions):
    for session in sessions:
        assert [event["itemInSession"] for event in session] == list(range(len(session)))


def test_the_next_event_comes_when_the_song_is_over_unless_it_was_skipped(sessions):
    waits = [
        (after["ts"] - play["ts"], play["length"] * 1000)
        for session in sessions
        for play, after in zip(session, session[1:])
        if play["page"] == "NextSong"
    ]
    assert all(0 <= wait <= length + 1 for wait, length in waits)
    assert sum(wait > length - 1000 for wait, length in waits) > 0.9 * len(waits)


def test_a_session_belongs_to_one_user(sessions):
    assert all(len({event["userId"] for event in session} - {""}) <= 1 for session in sessions)


def test_a_user_keeps_name_gender_location_and_browser(events):
    fixed = "firstName", "lastName", "gender", "location", "userAgent", "registration"
    users = defaultdict(set)
    for event in events:
        users[event["userId"]].add(tuple(event[name] for name in fixed))
    assert {user: seen for user, seen in users.items() if len(seen) > 1} == {}
    assert 85 <= len(users) <= 110


def test_a_level_changes_only_after_a_submitted_page(events):
    last, changes = {}, Counter()
    for event in events:
        user, level = event["userId"], event["level"]
        if not user:
            continue
        if user in last:
            before, page = last[user]
            expected = {"Submit Upgrade": "paid", "Submit Downgrade": "free"}.get(page, before)
            assert level == expected
            changes[before, level] += 1
        last[user] = level, event["page"]
    assert changes["free", "paid"] and changes["paid", "free"]


def test_days_and_hours_have_their_rhythm(days, events):
    sizes = {path: len(of_day) for path, of_day in days.items()}
    sundays = sum(sizes[path] for path in sizes if path[-14:-12] in ("04", "11", "18", "25"))
    wednesdays = sum(sizes[path] for path in sizes if path[-14:-12] in ("07", "14", "21", "28"))
    assert wednesdays > 1.5 * sundays
    hours = Counter(event["ts"] // 3_600_000 % 24 for event in events)
    assert sum(hours[hour] for hour in range(16, 20)) > 1.5 * sum(hours[hour] for hour in range(6, 10))


# ---- Size -------------------------------------------------------------------------------------------------


def peak_memory(out, events):
    script = MEASURED.format(script=str(DATA / "simulate.py"))
    command = [sys.executable, "-c", script, str(out), "--songs", "10", "--days", "2", "--events", str(events)]
    return int(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)


def test_four_times_the_events_take_hardly_more_memory(tmp_path):
    pytest.importorskip("resource")
    # 150,000 more lines are 70 MB; 1,800 more users and the sessions under way are 2 MB.
    assert peak_memory(tmp_path / "large", 200_000) < 1.5 * peak_memory(tmp_path / "small", 50_000)


# ---- Refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--songs", "-1"), "--songs"),
        (("--events", "many"), "--events"),
        (("--events=-5",), "--events"),
        (("--seed", "1.5"), "--seed"),
        (("--days", "0"), "--days"),
        (("--days", "99999"), "--days"),
        (("--start", "2018-13-01"), "--start"),
        (("--start", "1969-12-31"), "--start"),
        (("--unknown",), "--unknown"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(tmp_path, arguments, named):
    done = run(tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert re.fullmatch(rf"simulate\.py: .*{named}.*\n", done.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["song_data", "log_data", "song-data.zip", "log-data.zip"])
@pytest.mark.parametrize("form", [(), ("--zip",)])
def test_existing_records_are_neither_mixed_nor_overwritten(tmp_path, name, form):
    (tmp_path / name).mkdir()
    done = run(tmp_path, *form)
    assert done.returncode == 2
    assert re.fullmatch(rf"simulate\.py: .*{re.escape(name)} exists.*\n", done.stderr)
    assert [path.name for path in tmp_path.rglob("*")] == [name]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    done = run(tmp_path / "out")
    assert done.returncode == 2
    assert re.fullmatch(r"simulate\.py: .*out isn't a folder\n", done.stderr)


def test_the_help_names_every_option():
    done = run("--help")
    assert done.returncode == 0
    for option in ("OUT", "--songs", "--events", "--days", "--start", "--seed", "--zip"):
        assert option in done.stdout
