"""A place on this machine and on S3 by the one interface: listing, reading, writing, deleting; other servers of S3."""

import io
import os
import pickle
import re
import time
import zipfile

import pytest
from proxy import Proxy
from s3 import aws_of, client_of, contents, error_xml, put, storage_at

from sparkify import s3 as room
from sparkify.aws import aws_client
from sparkify.errors import PlaceError, UsageError
from sparkify.lock import Lock
from sparkify.publish import check_output, discard_old_staging, move_by_journal, publish, staging_of
from sparkify.schema import TABLES
from sparkify.storage import LocalStorage, storage_of

pytestmark = pytest.mark.usefixtures("no_aws_from_outside")

NAMES = {"a.json": b"1", "x/b.json": b"22", "x/y/c": b"", "x/.z": b"h", "_s/d": b"h", "x/_t/e.json": b"h"}


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path):
    """A place that isn't there yet."""
    if request.param == "local":
        return storage_of(str(tmp_path / "place"), {})
    bucket = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    return storage_of(f"s3://{bucket}/in it", aws_of(request.getfixturevalue("fast_endpoint")))


# ---- Both --------------------------------------------------------------------------------------------------


def test_files_are_listed_by_folders_and_hidden_ones_only_when_asked_for(storage):
    for name, content in NAMES.items():
        storage.write(name, content)
    assert storage.list() == {"a.json": 1, "x/b.json": 2, "x/y/c": 0}
    assert storage.list("x") == {"x/b.json": 2, "x/y/c": 0}
    assert storage.list("_s") == {"_s/d": 1}
    assert storage.list("none") == {}
    assert storage.everything() == {name: len(content) for name, content in NAMES.items()}
    assert storage.folders() == ["_s", "x"]
    assert storage.folders("x") == ["_t", "y"]
    assert storage.path("x/b.json") == f"{storage.place}/x/b.json"


def test_a_file_is_read_whole_in_part_and_as_a_zip(storage):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("é.json", "{}" * 1000)
    storage.write("a.zip", content.getvalue())
    storage = pickle.loads(pickle.dumps(storage))
    whole = content.getvalue()
    assert storage.read("a.zip") == whole
    for start, end in ((0, 10), (10, 20), (10, None), (5, 5), (0, 10**9)):
        assert storage.read("a.zip", start, end) == whole[start:end]
    for start, end in ((10**6, None), (10**6, 10**7)):  # behind the end
        if storage.place.startswith("s3:"):  # only an object that has become shorter is asked so
            with pytest.raises(PlaceError, match="InvalidRange"):
                storage.read("a.zip", start, end)
        else:
            assert storage.read("a.zip", start, end) == b""
    with storage.open("a.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("é.json") == b"{}" * 1000


def test_a_named_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("b")
    assert storage_of(str(tmp_path)).list() == {"b.json": 1}


def test_a_file_that_is_not_there_is_said_by_python_s_own_error(storage):
    storage.write("a", b"")
    with pytest.raises(FileNotFoundError):
        storage.read("b")
    with pytest.raises(FileNotFoundError):
        storage.open("b")
    assert storage.stored("b") is None
    storage.delete(["b", "c"])


def test_what_is_deleted_or_discarded_is_gone_and_nothing_else(storage):
    for name in NAMES:
        storage.write(name, b"")
    storage.discard("x")
    storage.delete(["a.json"])
    assert storage.everything() == {"_s/d": 0}
    storage.discard("_s")
    if storage.place.startswith(os.sep):
        assert not os.path.exists(storage.place)


def test_a_conditional_write_does_nothing_where_another_was_faster(storage):
    storage.write_if("a", b"1", None)
    storage.write_if("a", b"2", None)
    content, seconds, version = storage.stored("a")
    assert (content, -1 <= seconds < 5) == (b"1", True)
    storage.write_if("a", b"3", version)
    assert storage.stored("a")[0] == b"3"
    storage.write_if("a", b"4", version)
    assert storage.stored("a")[0] == b"3"
    storage.delete(["a"])
    storage.write_if("a", b"5", version)
    assert storage.stored("a") is None


def test_to_check_leaves_nothing_behind(storage):
    storage.write("a", b"")
    storage.check_writable()
    assert storage.everything() == {"a": 0}


# ---- This machine ------------------------------------------------------------------------------------------


def test_folders_that_are_linked_to_each_other_are_listed_once(tmp_path):
    for name in "abc":
        (tmp_path / "log_data" / name).mkdir(parents=True)
        (tmp_path / "log_data" / name / "x.json").write_text("{}")
        for other in "abc":
            if other != name:
                (tmp_path / "log_data" / name / f"to_{other}").symlink_to(tmp_path / "log_data" / other)
    assert len(LocalStorage(str(tmp_path)).list()) == 3


def test_a_link_to_a_folder_above_is_not_followed_round_in_circles(tmp_path):
    (tmp_path / "song_data").mkdir()
    (tmp_path / "song_data/one.json").write_text("{}")
    (tmp_path / "song_data/up").symlink_to(tmp_path)
    assert [name for name in LocalStorage(str(tmp_path)).list() if "up" not in name] == ["song_data/one.json"]


def test_a_folder_is_found_as_data_also_when_it_is_there_by_another_name(tmp_path):
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue/a.json").write_text("{}")
    (tmp_path / "song_data").symlink_to("catalogue")
    assert set(LocalStorage(str(tmp_path)).list()) == {"catalogue/a.json", "song_data/a.json"}


def test_links_to_nothing_are_named_in_data_and_passed_over_elsewhere(tmp_path):
    (tmp_path / "log_data").mkdir()
    (tmp_path / "old").symlink_to("nowhere")
    assert LocalStorage(str(tmp_path)).list() == {}
    (tmp_path / "log_data/gone.json").symlink_to("nowhere.json")
    with pytest.raises(PlaceError, match="gone.json: it is a link to what isn't there"):
        LocalStorage(str(tmp_path)).list()


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("none", "file"):
        with pytest.raises(PlaceError, match=f"{name}: there is no such folder"):
            LocalStorage(str(tmp_path / name)).list()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, said in (("file/lake", "can't write to .*/file: Not a directory"), ("link", "link is a link to what")):
        with pytest.raises(UsageError, match=f"{said}.*; choose another --output|{said}.*: choose another --output"):
            LocalStorage(str(tmp_path / name)).check_writable()
    with pytest.raises(PlaceError, match="file.*name a folder|file.*check"):
        LocalStorage(str(tmp_path / "file/lake")).write("a", b"")


def test_a_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    storage = LocalStorage(str(tmp_path))
    storage.write("a", b"old")
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlaceError, match="a: No space left on device: make room"):
        storage.write("a", b"new")
    assert synced
    assert storage.everything() == {"a": 3}


# ---- Listing on S3 -----------------------------------------------------------------------------------------


def calls_of(storage):
    """The list to which the names of a storage's calls are added."""
    calls = []
    storage.client.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))
    return calls


def test_keys_with_anything_in_them_are_listed_over_pages_and_read(fast_endpoint):
    folders = (
        "in/song_data",
        "in/deep/song_data/A=1/B %20+ é",
        "in/_x/song_data",
        "in/song_data/.y",
        "in/my_song_data",
    )
    objects = {f"{folder}/é &=+%41 {number}.json": b"{}" for folder in folders for number in range(10)}
    objects.update({f"in/song_data/{number:04}.json": str(number).encode() for number in range(1100)})
    put(client_of(fast_endpoint), "odd", {**objects, "in/song_data/x.txt": b"", "input/song_data/z.json": b""})
    storage = storage_at(fast_endpoint, "s3://odd/in")
    calls, found = calls_of(storage), storage.list()
    assert calls == ["ListObjectsV2"] * 2
    shown = {key[3:]: value for key, value in objects.items() if "/_x/" not in key and "/.y/" not in key}
    assert found == {name: len(content) for name, content in {**shown, "song_data/x.txt": b""}.items()}
    for name in [*shown][:20]:
        assert storage.read(name) == shown[name]


@pytest.mark.parametrize("place", ["s3://many/in", "s3://many"])
def test_many_objects_are_listed_folder_by_folder_side_by_side(fast_endpoint, monkeypatch, place):
    """As with pages of two objects, so that there are many."""
    client = client_of(fast_endpoint)
    folders = [f"in/song_data/{a}/{b}" for a in "AB/" for b in "XYZ"] + ["in/deep/song_data/A=1/é &=+%41"]
    hidden = ["in/song_data/_A/X", "in/song_data/A/.y", "in/_x/song_data"]
    keys = [f"{folder}/{number}.json" for folder in [*folders, *hidden] for number in range(9)]
    keys += [f"in/flat/song_data/{number:04}.json" for number in range(110)]
    keys += ["in/song_data/a.json", "in/song_data/A/b.json", "in/song_data/A/X/c.txt", "in/log-data.txt"]
    put(client, "many", {key: key.encode() for key in keys})
    monkeypatch.setattr(room, "LONG_LISTING", 2)
    storage = storage_at(fast_endpoint, place)
    pages = storage._pages
    storage._pages = lambda prefix, **options: pages(prefix, PaginationConfig={"PageSize": 2}, **options)
    start = len("in/") if place.endswith("/in") else 0
    expected = {key[start:]: len(key.encode()) for key in keys}
    assert storage.everything() == expected
    shown = {name: size for name, size in expected.items() if not room.is_hidden(name)}
    calls = calls_of(storage)
    assert storage.list() == shown
    assert len(calls) < 2 * len(keys) / 2


# ---- Reading and writing on S3 -------------------------------------------------------------------------------


def test_requests_that_s3_refuses_for_a_moment_are_repeated(scripted):
    refusals = iter([True] * 6)
    slow = error_xml("SlowDown", "Please reduce your request rate.")
    server = scripted(lambda *_: (503, slow) if next(refusals, False) else (200, b"the text"))
    storage = storage_at(server.address, "s3://music")
    texts = room.in_parallel(storage.read, [f"{at}.json" for at in range(20)])
    assert texts == [b"the text"] * 20
    assert len(server.requests) == 26


def test_a_body_that_breaks_off_is_read_again(scripted):
    cut = iter([True] * 3)
    server = scripted(lambda *_: (200, b"the", 5) if next(cut, False) else (200, b"the text"))
    storage = storage_at(server.address, "s3://music")
    assert storage.read("0.json") == b"the text"
    assert len(server.requests) == 4
    server.answer = lambda *_: (200, b"the", 5)
    with pytest.raises(PlaceError, match="^s3://music/0.json: "):
        storage.read("0.json")


def test_uploads_of_another_place_are_not_taken_for_its_own(scripted):
    """By a server that doesn't heed the prefix it is asked for."""
    uploads = "".join(
        f"<Upload><Key>{place}/_staging/{name}/users/a</Key><UploadId>{name}</UploadId></Upload>"
        for place, name in (("lake", "ours"), ("bake", "theirs"))
    )
    listing = f"<ListMultipartUploadsResult>{uploads}</ListMultipartUploadsResult>".encode()
    server = scripted(lambda method, path, query: (200, listing if "uploads" in query else b"<ListBucketResult/>"))
    assert storage_at(server.address, "s3://music/lake").folders("_staging") == ["ours"]


def test_a_server_without_ranges_serves_too(scripted):
    server = scripted(lambda *_: (200, b"0123456789"))
    storage = storage_at(server.address, "s3://music")
    assert storage.read("a", 3, 5) == b"34"
    assert storage.read("a", 3) == b"3456789"
    assert storage.read("a") == b"0123456789"
    assert len(server.requests) == 3


def test_a_zip_is_read_once_by_a_few_requests(scripted):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in reversed(range(500)):
            archive.writestr(f"log_data/{number:03}.json", f"line {number}\n".encode() * 2000)
    zipped = content.getvalue()

    def answer(method, path, query):
        first, last = map(int, re.findall(r"\d+", server.requests[-1][3].get("Range", f"0-{len(zipped) - 1}"))[:2])
        return (206, zipped[first : last + 1]) if method == "GET" else (200, zipped)

    server = scripted(answer)
    with storage_at(server.address, "s3://music").open("log-data.zip") as file, zipfile.ZipFile(file) as archive:
        texts = {name: archive.read(name) for name in archive.namelist()}
    assert texts == {f"log_data/{n:03}.json": f"line {n}\n".encode() * 2000 for n in range(500)}
    assert len(zipped) > 8 << 20
    assert len(server.requests) < 10


def test_a_denial_names_the_object_and_the_permission(scripted):
    server = scripted(lambda *_: (403, error_xml("AccessDenied", "Access Denied")))
    with pytest.raises(PlaceError, match="^s3://music/in/a: AccessDenied: .*s3:GetObject"):
        storage_at(server.address, "s3://music/in").read("a")


def test_a_folder_is_uploaded_without_its_hidden_files(fast_endpoint, tmp_path):
    storage = storage_of("s3://uploaded/lake", aws_of(fast_endpoint))
    for name in ("é/a b.parquet", "é/.a.crc", "_rejected/c.json"):
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_text(name)
    storage.upload(str(tmp_path / "from"), "_staging/1")
    assert set(storage.list("_staging/1")) == {"_staging/1/é/a b.parquet", "_staging/1/_rejected/c.json"}
    assert storage.read("_staging/1/é/a b.parquet") == "é/a b.parquet".encode()


# ---- Servers of S3 -----------------------------------------------------------------------------------------


def cycle(address, bucket, folder, runs=2, **keys):
    """A run's work on a server of S3: check, lock, recover, stage, publish; again; then read what is there."""
    aws = aws_of(address, **keys)
    aws_client(aws, "s3").create_bucket(Bucket=bucket)
    storage = storage_of(f"s3://{bucket}/a lake", aws)
    for number in range(2 - runs, 2):
        run_id = f"2026010{number + 1}T000000Z-00000000"
        texts = {}
        for table, contract in TABLES.items():
            folders = [f"{column}={number}" for column in contract.partitions]
            name = "/".join([table, *folders, f"é {number}.parquet"])
            path = folder / run_id / name
            path.parent.mkdir(parents=True)
            texts[name] = f"{table} {number}"
            path.write_text(texts[name])
        check_output(f"s3://{bucket}", storage)
        with Lock(storage, run_id) as lock:
            assert move_by_journal(storage, lock) is None
            discard_old_staging(storage)
            storage.upload(str(folder / run_id), staging_of(run_id))
            publish(storage, run_id, lock, {})
        assert {name: storage.read(name).decode() for name in storage.everything()} == texts
    assert storage.read("users/é 1.parquet", 2, 5) == b"ers"
    with storage.open("users/é 1.parquet") as file:
        assert file.read() == b"users 1"


def refusing(address, is_refused, status, code):
    """A proxy in front of a server that refuses one kind of request, in a server's usual words."""
    answer = (status, f"<Error><Code>{code}</Code><Message>not here</Message></Error>".encode() if code else b"no")
    return Proxy(address, lambda request, _: answer if is_refused(request) else None)


def with_header(*names):
    return lambda request: any(name in request.headers for name in names)


REFUSED = {
    "uploads": lambda request: request.command == "GET" and "uploads" in request.path.partition("?")[2],
    "delete many": lambda request: request.command == "POST" and "delete" in request.path.partition("?")[2],
    "conditions": with_header("If-None-Match", "If-Match"),
    "checksums": with_header("x-amz-sdk-checksum-algorithm", "x-amz-checksum-crc32", "x-amz-trailer"),
    "HeadBucket": lambda request: request.command == "HEAD" and request.path.count("/") == 1,
}
LACKS = [("uploads", 500, ""), ("delete many", 400, "MissingContentMD5"), ("checksums", 400, "InvalidArgument")]
LACKS += [(kind, 501, "NotImplemented") for kind in REFUSED]
LACKS += [(kind, 405, "MethodNotAllowed") for kind in ("uploads", "delete many", "HeadBucket")]


@pytest.mark.parametrize(("kind", "status", "code"), LACKS)
def test_what_a_server_lacks_is_done_without(fast_endpoint, tmp_path, kind, status, code):
    asked = []

    def is_refused(request):
        asked.append(REFUSED[kind](request))
        return asked[-1]

    proxy = refusing(fast_endpoint, is_refused, status, code)
    start, bucket = time.monotonic(), f"lacks-{kind.replace(' ', '-').lower()}-{code.lower()}"
    put(client_of(fast_endpoint), bucket, {f"a lake/{table}/old.parquet": b"old" for table in TABLES})
    cycle(proxy.address, bucket, tmp_path, runs=1)
    proxy.close()
    assert any(asked) or kind == "checksums"  # of which only a few calls of some boto3s have one
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (405, "MethodNotAllowed"), (400, "InvalidRequest")]
)
def test_a_server_that_cannot_copy_is_refused_before_anything_is_touched(fast_endpoint, tmp_path, status, code):
    client = client_of(fast_endpoint)
    put(client, f"copy-{status}", {"a lake/users/old.parquet": b"old"})
    proxy = refusing(fast_endpoint, with_header("x-amz-copy-source"), status, code)
    with pytest.raises(PlaceError, match=rf"{code}: .*can't copy an object \(CopyObject\)") as error:
        cycle(proxy.address, f"copy-{status}", tmp_path)
    proxy.close()
    assert len(str(error.value).splitlines()) == 1
    assert contents(client, f"copy-{status}") == {"a lake/users/old.parquet": b"old"}


def test_what_is_said_of_a_copy_is_told_also_where_nothing_can_be_deleted(fast_endpoint):
    client_of(fast_endpoint).create_bucket(Bucket="no-copy-no-delete")
    is_copy = with_header("x-amz-copy-source")
    proxy = refusing(
        fast_endpoint, lambda request: is_copy(request) or request.command == "DELETE", 501, "NotImplemented"
    )
    with pytest.raises(PlaceError, match=r"can't copy an object \(CopyObject\)"):
        storage_of("s3://no-copy-no-delete/lake", aws_of(proxy.address)).check_writable()
    proxy.close()


def test_the_cycle_on_moto(endpoint, tmp_path):
    cycle(endpoint, "whole-cycle", tmp_path)
