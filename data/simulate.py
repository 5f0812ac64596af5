"""Simulate a music streaming service: its song catalogue and the event log of its app.

    python data/simulate.py OUT                                        71 songs, 8,056 events, as folders
    python data/simulate.py OUT --songs 14896 --events 1000000         a month of a busier service
    python data/simulate.py OUT --events 500000 --days 400 --start 2019-07-01 --seed 7
    python data/simulate.py data --zip                                 the sample beside this file

It makes two kinds of JSON, laid out as the service lays them out:

    OUT/song_data/A/B/C/TRABCEI128F424C983.json     one object a file; letters 3 to 5 are the folders
    OUT/log_data/2018/11/2018-11-12-events.json     one object a line, in the order of ts; days are UTC

or, with --zip, OUT/song-data.zip and OUT/log-data.zip with the same paths inside. OUT must not hold any of
these yet. The same arguments give the same bytes with every Python from 3.9 on. Events are written as they
happen, so memory grows with users and songs, not with events. Nothing but the standard library is needed.

Words: a song of the catalogue has a file; the world is the songs that can be played, the catalogue's and
many others. An event is one line of a log; a play is an event whose page is NextSong. A session is one
sitting of one user, its events numbered by itemInSession. A state is what a session does at an event: a page,
or "out:" and a page for somebody who isn't logged in. A fragment is a piece of a line that is JSON already.
"""

import argparse
import datetime
import heapq
import io
import json
import math
import random
import sys
import zipfile
from bisect import bisect
from collections.abc import Callable
from contextlib import contextmanager
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple

# ---- Words to invent names from ---------------------------------------------------------------------------


def words(text, between=None):
    return text.split(between)


WOMEN = words("""Ada Amara Beatriz Chloe Dalia Edith Farah Greta Hanna Ines Jocelyn Kaylee Lena Lily Maya
Nadia Noémie Olga Priya Rosa Saoirse Tegan Uma Vera Wanda Yuki Zoë""")
MEN = words("""Aaron Bashir Carlos Dmitri Elias Felix Gabriel Hugo Ivan Jacob Kenji Liam Mateo Nils Omar
Pablo Quentin René Ryan Søren Theo Ulrich Victor Walter Xavier Yusuf Zane""")
SURNAMES = words("""Abara Becker Castillo Dubois Ekström Fischer Garcia Harris Ivanova Jensen Koch Larsen
Moreau Nakamura O'Brien Petrov Quist Rossi Smith Tanaka Ueda Varga Williams Xu Young Zieliński Lynch Cruz
Levine Griffin Bowen-Hale Kirby Summers Frye Nuñez Arellano""")
ADJECTIVES = words("""Amber Blue Broken Crooked Distant Electric Empty Fading Final Gentle Golden Hidden
Hollow Idle Little Lonely Lucky Midnight Northern Paper Quiet Restless Rusty Secret Silver Slow Small
Velvet Wild Wooden Überirdisch Électrique Frío""")
NOUNS = words("""Anchor Avenue Balloon Bridge Café Candle Canyon Carousel Clock Comet Corner Engine
Feather Ferry Fire Garden Ghost Harbor Highway Island Kitchen Ladder Lantern Letter Machine Meadow Mirror
Moon Mountain Museum Orchard Parade Piano Postcard Radio Rain River Road Satellite Shadow Signal Sparrow
Station Summer Sunday Telephone Thunder Tiger Train Valley Window Winter Señorita Grüße Łódź Étoile""")
VERBS = words("Build Call Carry Chase Count Cross Draw Find Follow Forget Hold Keep Leave Lose Paint")

# Templates: a adjective, n and m nouns, v verb, w and g first names, s surname. Some carry what
# breaks careless readers: quotes, slashes, apostrophes, commas, a backslash, letters beyond Latin-1.
TITLES = (
    *("{a} {n}", "{a} {n}", "{n} Of The {m}", "{v} The {n}", "{v} My {a} {n}", "The {a} {n}", "{n} And {m}"),
    *("{n} In The {m}", "{a} {n} {m}", "Don't {v} The {n}", "{v} Me ({a} {n})", "{n} (Album Version)"),
    *("{a} {n} (Live)", "{v} It, {v} It", 'The "{a}" {n}', '"{n}"', "{n} / {m}", "{a}\\{n}", "{n}の{m}"),
)
ARTISTS = (
    *("The {a} {n}s", "{a} {n}", "{n} {m}", "{w} {s}", "{g} {s}", "{g} & The {n}s", "DJ {n}", "{n} From {m}"),
    *("{w} {s} feat. {g} {s}", "{n}/{m}", 'Big "{n}" {s}', "{a} {n} Orchestra", "Los {n}s", "{s}, {s} & {s}"),
)

# Where listeners live, named as the app names it, and where artists come from, with latitude and longitude.
METROS = words(
    "New York-Newark-Jersey City, NY-NJ-PA|Los Angeles-Long Beach-Anaheim, CA|"
    "Chicago-Naperville-Elgin, IL-IN-WI|San Francisco-Oakland-Hayward, CA|"
    "Houston-The Woodlands-Sugar Land, TX|Atlanta-Sandy Springs-Roswell, GA|Portland-South Portland, ME|"
    "Lansing-East Lansing, MI|Waterloo-Cedar Falls, IA|Janesville-Beloit, WI|"
    "Tampa-St. Petersburg-Clearwater, FL|Lake Havasu City-Kingman, AZ|Sacramento--Roseville, CA|"
    "Louisville/Jefferson County, KY-IN|Birmingham-Hoover, AL|Nashville-Davidson, TN|"
    "San Jose-Sunnyvale-Santa Clara, CA|Phoenix-Mesa-Scottsdale, AZ|Detroit-Warren-Dearborn, MI|"
    "Red Bluff, CA|Augusta-Richmond County, GA-SC|Minneapolis-St. Paul-Bloomington, MN-WI|Eugene, OR|"
    "Salinas, CA|Yuba City, CA|Marinette, WI-MI|Cedar Rapids, IA|Dallas-Fort Worth-Arlington, TX|"
    "La Crosse-Onalaska, WI-MN|Plymouth, IN",
    "|",
)
PLACES = (
    *(("San Francisco, CA", 37.77916, -122.42005), ("Los Angeles, CA", 34.05349, -118.24532)),
    *(("Chicago, IL", 41.88415, -87.63241), ("Detroit, MI", 42.33168, -83.04792)),
    *(("Memphis, TN", 35.14968, -90.04892), ("New Orleans, LA", 29.95369, -90.07771)),
    *(("London, England", 51.50632, -0.12714), ("Montréal, Québec, Canada", 45.51228, -73.55439)),
    *(("São Paulo, Brazil", -23.56287, -46.65462), ("Malmö, Sweden", 55.60045, 13.00323)),
    *(("Houston, TX", 29.76045, -95.36978), ("Kingston, Jamaica", 17.99012, -76.79311)),
)

CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/36.0.1985.125 Safari/537.36"
SAFARI = "AppleWebKit/537.77.4 (KHTML, like Gecko) Version/7.0.5 Safari/537.77.4"
IPHONE = "AppleWebKit/537.51.2 (KHTML, like Gecko) Version/7.0 Mobile/11D257 Safari/9537.53"
# The app wraps the name of a browser in quotes, but not that of Firefox or of Internet Explorer.
BROWSERS = (
    f'"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_9_4) {CHROME}"',
    f'"Mozilla/5.0 (Windows NT 6.1; WOW64) {CHROME}"',
    f'"Mozilla/5.0 (X11; Linux x86_64) {CHROME}"',
    f'"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_9_4) {SAFARI}"',
    f'"Mozilla/5.0 (iPhone; CPU iPhone OS 7_1_2 like Mac OS X) {IPHONE}"',
    "Mozilla/5.0 (Windows NT 6.1; WOW64; rv:31.0) Gecko/20100101 Firefox/31.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.9; rv:31.0) Gecko/20100101 Firefox/31.0",
    "Mozilla/5.0 (compatible; MSIE 9.0; Windows NT 6.1; WOW64; Trident/5.0)",
)

# ---- How people listen ------------------------------------------------------------------------------------

# Each page: method and status.
PAGES = {
    **dict.fromkeys(("Home", "Settings", "Help", "About", "Upgrade", "Downgrade"), ("GET", 200)),
    **dict.fromkeys(("Login", "Logout", "Save Settings", "Submit Upgrade", "Submit Downgrade"), ("PUT", 307)),
    **{"NextSong": ("PUT", 200), "Error": ("GET", 404)},
}
# What follows a state, with its weight. To a free user "Change" is Upgrade, to a paid one Downgrade.
FOLLOWS = {
    "arrival": {"NextSong": 72, "Home": 16, "out:Home": 7, "out:Login": 5},
    "NextSong": {
        **{"NextSong": 898, "Home": 72, "Logout": 9, "Change": 7, "Settings": 5},
        **{"Help": 4, "About": 3, "Error": 1, "out:Login": 1},
    },
    "Home": {"NextSong": 86, "Home": 6, "Settings": 2, "Help": 2, "About": 1, "Change": 2, "Logout": 1},
    "Change": {"NextSong": 66, "Home": 20, "Submit Change": 14},
    "Submit Upgrade": {"Home": 60, "NextSong": 40},
    "Submit Downgrade": {"Home": 60, "NextSong": 40},
    "Settings": {"NextSong": 60, "Home": 20, "Save Settings": 20},
    "Save Settings": {"Home": 60, "NextSong": 40},
    "Help": {"NextSong": 80, "Home": 20},
    "About": {"NextSong": 80, "Home": 20},
    "Error": {"NextSong": 60, "Home": 40},
    "Logout": {"out:Home": 75, "out:Login": 25},
    "out:Home": {"out:Login": 70, "out:Home": 15, "out:About": 8, "out:Help": 6, "out:Error": 1},
    "out:Login": {"Home": 80, "NextSong": 20},
    "out:Help": {"out:Home": 70, "out:Login": 30},
    "out:About": {"out:Home": 70, "out:Login": 30},
    "out:Error": {"out:Home": 100},
}
LEVEL_AFTER = {"Submit Upgrade": "paid", "Submit Downgrade": "free"}

# How many events each hour has (UTC: 17 to 24 is the American afternoon), and each day from Monday on.
HOURS = (44, 38, 34, 32, 28, 25, 24, 23, 23, 25, 28, 32, 36, 42, 50, 58, 66, 70, 68, 62, 60, 58, 54, 48)
WEEK = (10, 11, 13, 11, 12, 6, 5)
HOUR = 3_600_000  # ms, as ts
DAY = 24 * HOUR
EPOCH = datetime.date(1970, 1, 1)
LAST_DAY = datetime.date(2100, 12, 31)

CATALOGUE_SHARE = 0.32  # of the plays: enough for the joins to be looked at
# Files in a folder: 7 of a few songs, 22 of fifteen thousand (which fill A/), 57 of a million.
SMALL_FOLDER, LARGE_FOLDER = 7, 57


def cumulative(weights):
    """list of weights -> the bounds to bisect by random(), which gives an index into the list.

    The last bound is left off: rounded below 1 it would give an index beyond the end.
    """
    sums = list(accumulate(weights))
    return [one / sums[-1] for one in sums[:-1]]


def fragment(value):
    r"""Any value -> its JSON as the app writes it: no blanks, ASCII alone, / as \/."""
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/")


def transitions(level):
    """The level -> {state: (bounds, the states that follow)}, with the pages that this level sees."""
    change = "Upgrade" if level == "free" else "Downgrade"
    return {
        state.replace("Change", change): (
            cumulative(after.values()),
            [following.replace("Change", change) for following in after],
        )
        for state, after in FOLLOWS.items()
    }


def page_fragments(state):
    """A state -> (whether logged in, fragment from method to registration, fragment from status to ts)."""
    page = state.replace("out:", "")
    method, status = PAGES[page]
    before = f',"method":"{method}","page":"{page}","registration":'
    return not state.startswith("out:"), before, f',"status":{status},"ts":'


TRANSITIONS = {level: transitions(level) for level in ("free", "paid")}
STATES = {state: page_fragments(state) for state in (*PAGES, *FOLLOWS) if state.replace("out:", "") in PAGES}

# ---- Songs ------------------------------------------------------------------------------------------------

# Only random() is called: the algorithms of choice(), sample() and shuffle() have changed between Pythons.
# Only + - * / and fsum() work on what it gives: logarithms and powers differ in the last bit by machine,
# sum() by Python.


class Artist(NamedTuple):
    """What the catalogue says of an artist; place is (location, latitude or None, longitude or None)."""

    artist_id: str
    name: str
    place: tuple


class Playable(NamedTuple):
    """A song of the world as the log shows it: fragments, and the pause until the next event in ms."""

    artist: str
    length: str
    title: str
    pause: int


def pick(rand, options):
    """One of the options, each as likely as the others."""
    return options[int(rand() * len(options))]


def invent(rand, templates):
    """A name or title after one of the templates."""
    kinds = {"a": ADJECTIVES, "n": NOUNS, "m": NOUNS, "v": VERBS, "w": WOMEN, "g": MEN, "s": SURNAMES}
    return pick(rand, templates).format(**{letter: pick(rand, options) for letter, options in kinds.items()})


def make_id(rand, prefix, letters, middle, number):
    """An id like those of the service: 2 + 5 letters, 11 hexadecimal digits. Another number, another id."""
    while len(letters) < 5:
        letters += pick(rand, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    # An odd factor makes a permutation of all 7-digit numbers, so that ids don't count up but never clash.
    return f"{prefix}{letters}{middle}{(number * 0x9E3779B + 0x4C1) % 16**7:07X}"


def make_duration(rand):
    """Seconds with 5 decimals as in the catalogue: mostly 2 to 6 minutes, now and then up to 25."""
    long = 1100 * rand() if rand() < 0.01 else 0
    return round(70 + 180 * (rand() + rand()) + long, 5)


def make_artist(rand, number):
    """A new artist. Of many the catalogue doesn't know the place, or knows its name but not where it is."""
    location, latitude, longitude = pick(rand, PLACES)
    location = location if rand() < 0.55 else ""
    known = rand() < (0.6 if location else 0.15)
    place = (location, latitude, longitude) if known else (location, None, None)
    return Artist(make_id(rand, "AR", "", "1187", number), invent(rand, ARTISTS), place)


def folder_letters(number, songs):
    """The number of a song and how many there are -> the three letters of its folders, 'AAA' first."""
    per_folder = max(SMALL_FOLDER, min(LARGE_FOLDER, -(-songs // 26**2)), -(-songs // 26**3))
    folder = number // per_folder
    return "".join(chr(65 + folder // power % 26) for power in (26**2, 26, 1))


def popularity(rand, songs):
    """The weight of a song among so many. The r-th smallest of n uniform numbers is about r / n, so this is
    Zipf's 1 / r without any sorting; the 10 keeps the greatest hit at about 1 % of the plays."""
    return 1 / (10 + rand() * songs)


def make_catalogue(rand, songs):
    """Yields (path, record, weight) of each song: where its file is, the object in it, how popular it is.

    In every 24 songs one is another recording of the song before (same title and artist, another duration),
    and one is by the artist of the song before under another name, as the real catalogue has them.
    """
    artist, artists = None, []
    for number in range(songs):
        if number % 24 != 5:  # else artist, title and weight are still those of the song before
            if number % 24 == 11:
                artist = artist._replace(name=f"{artist.name} feat. {invent(rand, ARTISTS)}")
            elif rand() < 0.6 * number / songs:
                artist = pick(rand, artists)
            else:
                artist = make_artist(rand, number)
                artists.append(artist)
            title, weight = invent(rand, TITLES), popularity(rand, songs)
        track = make_id(rand, "TR", folder_letters(number, songs), "128F", number)
        location, latitude, longitude = artist.place
        record = {
            "num_songs": 1,
            "artist_id": artist.artist_id,
            "artist_latitude": latitude,
            "artist_longitude": longitude,
            "artist_location": location,
            "artist_name": artist.name,
            "song_id": make_id(rand, "SO", "", "12A" + pick(rand, "68B"), number),
            "title": title,
            "duration": make_duration(rand),
            "year": 0 if rand() < 0.55 else 2010 - int(45 * rand() * rand()),
        }
        yield f"song_data/{'/'.join(track[2:5])}/{track}.json", record, weight


def playable(artist, title, length):
    return Playable(fragment(artist), fragment(length), fragment(title), int(length * 1000))


def catalogue_length(rand, duration):
    """The app's length of a catalogue song: a quarter of them differ by up to half a second."""
    return duration if rand() < 0.75 else round(duration + rand() - 0.5, 5)


def make_others(rand, names, titles, count):
    """Yields (song, weight) of songs outside the catalogue, whose artist names and titles are given.

    Some are by an artist of the catalogue, some cover a title of it: neither alone identifies a song.
    """
    strangers = [invent(rand, ARTISTS) for _ in range(count // 3)]
    for _ in range(count):
        title = invent(rand, TITLES)
        if names and rand() < 0.25:
            artist = pick(rand, names)
        else:
            artist = pick(rand, strangers)
            if titles and rand() < 0.05:
                title = pick(rand, titles)
        yield playable(artist, title, make_duration(rand)), popularity(rand, count)


# ---- Users ------------------------------------------------------------------------------------------------


class User(NamedTuple):
    """Fragments that never change. Users share the few names, so a user takes 0.3 kB."""

    first_name: str
    gender: str
    last_name: str
    location: str
    registration: str
    browser: str
    user_id: str


NOBODY = User(*["null"] * 6, user_id='""')


def make_users(rand, events, start):
    """Yields (user, level, activity) of each user, registered in the half year before start (ms).

    A hundred users make 8,000 events, ninety thousand make ten million.
    """
    women, men, surnames, metros, browsers = (
        [fragment(name) for name in names] for names in (WOMEN, MEN, SURNAMES, METROS, BROWSERS)
    )
    for number in range(1, 2 + int(events * 0.013 / (1 + events / 2.4e7))):
        names, gender = (women, '"F"') if rand() < 0.55 else (men, '"M"')
        registration = fragment(float(start - int(rand() * 180 * DAY)))
        user = User(
            *(pick(rand, names), gender, pick(rand, surnames), pick(rand, metros), registration),
            *(pick(rand, browsers), f'"{number}"'),
        )
        keen = rand()  # the keenest are eight times as active as the average, and mostly pay
        yield user, "paid" if rand() < keen * keen else "free", 0.2 + keen / (1.06 - keen)


# ---- Events -----------------------------------------------------------------------------------------------


class World(NamedTuple):
    """All that sessions draw from. levels and busy change while the world lives, both by number of user."""

    rand: Callable
    songs: list
    song_bounds: list
    users: tuple
    user_bounds: list
    levels: list
    busy: bytearray
    end: int


def face(user, auth, session_id):
    """The fragments of a session that stay, up to itemInSession, length, method, song and the end."""
    return (
        f',"auth":"{auth}","firstName":{user.first_name},"gender":{user.gender},"itemInSession":',
        f',"lastName":{user.last_name},"length":',
        f'","location":{user.location}',
        f'{user.registration},"sessionId":{session_id},"song":',
        f',"userAgent":{user.browser},"userId":{user.user_id}}}\n',
    )


def session(world, who, session_id, ts, size):
    """Yields (ts, line) of each event of one session of user number who, which begins at ts."""
    rand, songs, bounds = world.rand, world.songs, world.song_bounds
    # In the order of logged_in, False and True.
    faces = face(NOBODY, "Logged Out", session_id), face(world.users[who], "Logged In", session_id)
    world.busy[who] = True
    state = "arrival"
    for item in range(size):
        level = world.levels[who]
        weights, following = TRANSITIONS[level][state]
        state = following[bisect(weights, rand())]
        if state == "NextSong":
            artist, length, title, pause = songs[bisect(bounds, rand())]
            if rand() < 0.06:
                pause = int(pause * rand())  # skipped
        else:
            artist = length = title = "null"
            pause = 1000 + int(40_000 * rand() * rand())
        logged_in, method, status = STATES[state]
        names, last_name, location, registration, browser = faces[logged_in]
        yield (
            ts,
            f'{{"artist":{artist}{names}{item}{last_name}{length},"level":"{level}{location}{method}'
            f"{registration}{title}{status}{ts}{browser}",
        )
        if state in LEVEL_AFTER:
            world.levels[who] = LEVEL_AFTER[state]
        # Near the end of time people hurry, so that each event finds its place before it.
        ts += min(pause, (world.end - ts) // (size - item))
    world.busy[who] = False


def hour_bounds(start, days):
    """The rhythm of so many days from start (ms) -> the bounds of their hours as shares of all events."""
    weekday = (start // DAY + 3) % 7  # 1970-01-01 was a Thursday
    weights = [WEEK[(weekday + day) % 7] * hour for day in range(days) for hour in HOURS]
    weights[-2:] = 0, 0  # a session that began in the last two hours would have little time left
    return [0.0, *cumulative(weights), 1.0]


def arrivals(rand, start, days, events):
    """Yields (ts, size) of sessions in the order of ts, which have exactly so many events together.

    A session begins where the rhythm has come to its own share of all events; nothing is planned ahead.
    """
    bounds = hour_bounds(start, days)
    begun = 0
    while begun < events:
        u = rand()
        size = min(1 + int(5 * u / (1.06 - u)), events - begun)  # 10 on average, at most 84
        share = min((begun + size * rand()) / events, 1 - 2**-40)  # 1 itself would be after the last hour
        hour = bisect(bounds, share) - 1
        lower, upper = bounds[hour : hour + 2]
        yield start + int((hour + (share - lower) / (upper - lower)) * HOUR), size
        begun += size


def free_user(world):
    """The number of a user who isn't in a session, the active ones more often. There must be one."""
    who = bisect(world.user_bounds, world.rand())
    while world.busy[who]:
        who = (who + 1) % len(world.users)
    return who


def simulate(world, sessions):
    """Sessions, as arrivals gives them -> yields (ts, line) of all their events in the order of ts."""
    running = []  # a heap of (ts, session_id, line, session): the next event of each session under way
    now = 0
    for session_id, (begins, size) in enumerate(chain(sessions, [(world.end, 0)]), 1):
        # Where everybody is listening already, the next session waits for somebody who has finished.
        while running and (running[0][0] < begins or len(running) == len(world.users)):
            now, running_id, line, events = running[0]
            yield now, line
            following = next(events, None)
            if following:
                heapq.heapreplace(running, (following[0], running_id, following[1], events))
            else:
                heapq.heappop(running)
        if size:
            events = session(world, free_user(world), session_id, max(now, begins), size)
            ts, line = next(events)
            heapq.heappush(running, (ts, session_id, line, events))


# ---- Writing ----------------------------------------------------------------------------------------------


def zip_info(path):
    """The entry of a path in a zip: the same bytes at any time, on any system."""
    info = zipfile.ZipInfo(path, date_time=(2018, 12, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # Unix
    info.external_attr = 0o100644 << 16
    return info


def open_text(target, path, large=False):
    """The text file at a path to write: in the folder that target is, or in the open zip."""
    if isinstance(target, zipfile.ZipFile):
        member = target.open(zip_info(path), "w", force_zip64=large)
        return io.TextIOWrapper(member, encoding="utf-8", newline="\n")
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    return open(target / path, "w", encoding="utf-8", newline="\n")


def write_catalogue(target, rand, songs):
    """Writes the song files. Returns their [(artist name, title, duration, weight)]."""
    listed = []
    for path, record, weight in make_catalogue(rand, songs):
        with open_text(target, path) as file:
            # Unlike the log it has blanks, and its letters as they are.
            file.write(json.dumps(record, ensure_ascii=False))
        listed.append((record["artist_name"], record["title"], record["duration"], weight))
    return listed


def write_log(target, events, large):
    """(ts, line) in the order of ts -> one file a day (UTC). large says that one may pass 2 GiB."""
    day_ends, file = 0, None
    for ts, line in events:
        if ts >= day_ends:
            if file:
                file.close()
            day_ends = ts - ts % DAY + DAY
            day = EPOCH + datetime.timedelta(days=ts // DAY)
            file = open_text(target, day.strftime("log_data/%Y/%m/%Y-%m-%d-events.json"), large)
        file.write(line)
    if file:
        file.close()


def litter(archive, folder):
    """Adds what the zips of a Mac hold besides: no reader may take it for data."""
    archive.writestr(zip_info(f"{folder}/.DS_Store"), b"\0\0\0\1Bud1\0\0\x10\0\0\0\x08\0" + bytes(64))
    for name in [name for name in archive.namelist() if name.endswith(".json")][:2]:
        double = "/._".join(f"__MACOSX/{name}".rsplit("/", 1))
        archive.writestr(zip_info(double), b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(64))


@contextmanager
def new_target(options, kind):
    """What open_text writes to, for kind song or log: the folder OUT, or a new zip in it, then completed."""
    if not options.zip:
        (options.out / f"{kind}_data").mkdir()
        yield options.out
        return
    with zipfile.ZipFile(options.out / f"{kind}-data.zip", "x") as archive:
        yield archive
        litter(archive, f"{kind}_data")


# ---- The command ------------------------------------------------------------------------------------------


def refuse(message):
    print(f"simulate.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def whole_number(text):
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} isn't a whole number from 0 up")
    return int(text)


def date(text):
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a date like 2018-11-01") from None


def arguments(argv):
    """The command line -> its options, or one line on standard error and exit 2."""
    parser = argparse.ArgumentParser(
        prog="simulate.py", description="Simulate a music service: its song catalogue and its event log."
    )
    parser.error = refuse  # one line, without the usage
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write to")
    parser.add_argument("--songs", metavar="N", type=whole_number, default=71, help="of the catalogue (71)")
    parser.add_argument("--events", metavar="N", type=whole_number, default=8056, help="of the log (8056)")
    parser.add_argument("--days", metavar="N", type=whole_number, default=30, help="of the log (30)")
    parser.add_argument("--start", metavar="DATE", type=date, default="2018-11-01", help="(2018-11-01)")
    parser.add_argument("--seed", metavar="N", type=whole_number, default=1, help="another, other data (1)")
    parser.add_argument("--zip", action="store_true", help="write song-data.zip and log-data.zip")
    options = parser.parse_args(argv)
    if not 1 <= options.days <= (LAST_DAY - options.start).days + 1 or options.start < EPOCH:
        refuse(f"--start and --days must give one day or more between {EPOCH} and {LAST_DAY}")
    if options.out.exists() and not options.out.is_dir():
        refuse(f"{options.out} isn't a folder")
    for name in ("song_data", "log_data", "song-data.zip", "log-data.zip", "song_data.zip", "log_data.zip"):
        if (options.out / name).exists():
            refuse(f"{options.out / name} exists; name another folder, or remove it first")
    return options


def make_world(rand, catalogue, events, start, end):
    """The catalogue as write_catalogue returns it, the number of events, their time (ms) -> the World."""
    known = [
        (playable(name, title, catalogue_length(rand, duration)), weight) for name, title, duration, weight in catalogue
    ]
    names, titles = [name for name, _, _, _ in catalogue], [title for _, title, _, _ in catalogue]
    others = list(make_others(rand, names, titles, min(8000 + 4 * len(catalogue), 100_000)))
    scale = math.fsum(weight for _, weight in others) * CATALOGUE_SHARE / (1 - CATALOGUE_SHARE)
    scale /= math.fsum(weight for _, weight in known) or 1
    weights = [weight * scale for _, weight in known] + [weight for _, weight in others]
    users, levels, activities = zip(*make_users(rand, events, start))
    return World(
        *(rand, [song for song, _ in known + others], cumulative(weights)),
        *(users, cumulative(activities), list(levels), bytearray(len(users)), end),
    )


def main(argv=None):
    options = arguments(argv)
    rand = random.Random(options.seed).random
    start = (options.start - EPOCH).days * DAY
    end = start + options.days * DAY
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with new_target(options, "song") as songs_to:
            catalogue = write_catalogue(songs_to, rand, options.songs)
        world = make_world(rand, catalogue, options.events, start, end)
        sessions = arrivals(rand, start, options.days, options.events)
        with new_target(options, "log") as log_to:
            # A line has less than 700 bytes, so only beyond 3 million can a file pass 2 GiB.
            write_log(log_to, simulate(world, sessions), large=options.events > 3_000_000)
    except OSError as error:
        refuse(f"{error.filename or options.out}: {error.strerror or error}")


if __name__ == "__main__":
    main()
