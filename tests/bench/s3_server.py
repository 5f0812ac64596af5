#!/usr/bin/env python3
"""An S3 server in memory that delays each request and counts them by kind, for measuring.

    python s3_server.py PORT [SECONDS [SONGS]]      on 127.0.0.1; the delay is 0.03 s unless said

SONGS: so many simulated song files are in the bucket `in` from the start, as a catalogue of a million lies on S3.
It takes any credentials, a bucket comes into being with its first object, and it knows only what the jobs that are
measured ask for. A request costs it 0.1 ms, so that it isn't what is measured: moto's server answers some 300 a second.
It runs until SIGTERM and then prints {kind: number of requests} as JSON. GET /_counts answers with the same.
"""

import argparse
import asyncio
import bisect
import hashlib
import json
import re
import signal
import time
from collections import Counter
from datetime import datetime, timezone
from email.utils import formatdate
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


def iso(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Store:
    """Objects by bucket and key, and the requests counted by kind."""

    def __init__(self):
        self.objects, self.names, self.counts = {}, {}, Counter()

    def put(self, bucket, key, content):
        if (bucket, key) not in self.objects:
            bisect.insort(self.names.setdefault(bucket, []), key)
        self.objects[bucket, key] = content, f'"{hashlib.md5(content).hexdigest()}"', time.time()
        return self.objects[bucket, key][1]

    def put_songs(self, number):
        """A catalogue in the bucket `in`, in 26 × 26 × 26 folders by three letters of the song's id."""
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        for at in range(number):
            folder = at * 26**3 // number
            name = f"{letters[folder // 676]}{letters[folder // 26 % 26]}{letters[folder % 26]}{at:014}"
            song = {"num_songs": 1, "artist_id": f"AR{at % 300_000:016}", "artist_latitude": None}
            song.update(artist_longitude=None, artist_location="", artist_name=f"Artist {at % 300_000}")
            song.update(song_id=f"SO{name}", title=f"Song {at}", duration=at % 500 + 0.5, year=1960 + at % 60)
            self.put("in", f"song_data/{'/'.join(name[:3])}/TR{name}.json", json.dumps(song).encode())

    def delete(self, bucket, key):
        if self.objects.pop((bucket, key), None):
            names = self.names[bucket]
            del names[bisect.bisect_left(names, key)]

    def answer(self, method, target, headers, body):
        """A request -> (status, headers, body)"""
        path, _, query = target.partition("?")
        query = dict(parse_qsl(query, keep_blank_values=True))
        bucket, _, key = unquote(path[1:]).partition("/")
        if bucket == "_counts":
            return 200, {}, json.dumps(self.counts).encode()
        if method == "GET" and not key:
            self.counts["LIST UPLOADS" if "uploads" in query else "LIST"] += 1
            return (200, {}, b"<ListMultipartUploadsResult/>") if "uploads" in query else self.list(bucket, query)
        if method == "POST" and "delete" in query:
            self.counts["DELETE MANY"] += 1
            for name in re.findall(r"<Key>(.*?)</Key>", body.decode()):
                self.delete(bucket, name.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
            return 200, {}, b"<DeleteResult/>"
        if method == "PUT" and "x-amz-copy-source" in headers:
            self.counts["COPY"] += 1
            origin = unquote(headers["x-amz-copy-source"]).lstrip("/").split("?")[0].partition("/")
            tag = self.put(bucket, key, self.objects[origin[0], origin[2]][0])
            return (
                200,
                {},
                f"<CopyObjectResult><ETag>{tag}</ETag><LastModified>{iso(time.time())}</LastModified></CopyObjectResult>".encode(),
            )
        self.counts[method] += 1
        if method == "PUT":
            there = self.objects.get((bucket, key))
            if (
                headers.get("if-none-match")
                and there
                or headers.get("if-match")
                and headers["if-match"] != (there or "  ")[1]
            ):
                return 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"
            return 200, {"ETag": self.put(bucket, key, body) if key else '""'}, b""
        if method == "DELETE":
            self.delete(bucket, key)
            return 204, {}, b""
        if not key:
            return 200, {"x-amz-bucket-region": "us-east-1"}, b""
        if (bucket, key) not in self.objects:
            return 404, {}, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
        return self.get(headers, *self.objects[bucket, key])

    def get(self, headers, content, tag, changed):
        about = {"ETag": tag, "Last-Modified": formatdate(changed, usegmt=True), "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if not wanted:
            return 200, about, content
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        if first >= len(content):
            return 416, {}, b"<Error><Code>InvalidRange</Code></Error>"
        return 206, {**about, "Content-Range": f"bytes {first}-{last}/{len(content)}"}, content[first : last + 1]

    def list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        names, most = self.names.get(bucket, []), int(query.get("max-keys", 1000))
        encode = quote if query.get("encoding-type") == "url" else escape
        after = query.get("continuation-token") or query.get("start-after") or ""
        at = max(bisect.bisect_left(names, prefix), bisect.bisect_right(names, after))
        found = []
        while at < len(names) and names[at].startswith(prefix) and len(found) <= most:
            folder = prefix + names[at][len(prefix) :].partition(delimiter)[0] + delimiter if delimiter else None
            if folder and names[at].startswith(folder):
                if folder > after:
                    found.append((folder, f"<CommonPrefixes><Prefix>{encode(folder)}</Prefix></CommonPrefixes>"))
                at = bisect.bisect_left(names, folder[:-1] + chr(ord(folder[-1]) + 1))
            else:
                content, tag, changed = self.objects[bucket, names[at]]
                found.append(
                    (
                        names[at],
                        f"<Contents><Key>{encode(names[at])}</Key><LastModified>{iso(changed)}</LastModified>"
                        f"<ETag>{escape(tag)}</ETag><Size>{len(content)}</Size></Contents>",
                    )
                )
                at += 1
        more = len(found) > most
        found = found[:most]
        token = f"<NextContinuationToken>{escape(found[-1][0])}</NextContinuationToken>" if more and found else ""
        encoding = "<EncodingType>url</EncodingType>" if encode is quote else ""
        text = (
            f"{XML}<ListBucketResult><Name>{bucket}</Name><Prefix>{encode(prefix)}</Prefix>{encoding}<KeyCount>"
            f"{len(found)}</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
            f"{''.join(entry for _, entry in found)}</ListBucketResult>"
        )
        return 200, {"Content-Type": "application/xml"}, text.encode()


class Connection(asyncio.Protocol):
    """A client's connection: one request after the other, each answered after the delay."""

    def __init__(self, store, delay):
        self.store, self.delay, self.buffer, self.request = store, delay, bytearray(), None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        if self.request is None:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            line, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            self.request = line.split(" ")[:2], headers
            del self.buffer[: end + 4]
            if "expect" in headers:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        (method, target), headers = self.request
        length = int(headers.get("content-length", 0))
        if len(self.buffer) >= length:
            body = bytes(self.buffer[:length])
            del self.buffer[:length]
            if "aws-chunked" in headers.get("content-encoding", "") or headers.get(
                "x-amz-content-sha256", ""
            ).startswith("STREAMING-"):
                body = unchunked(body)
            self.request = None
            asyncio.get_running_loop().call_later(self.delay, self.send, method, target, headers, body)

    def send(self, method, target, headers, body):
        status, about, content = self.store.answer(method, target, headers, body)
        about = {
            "x-amz-request-id": "0",
            "Date": formatdate(usegmt=True),
            "Content-Type": "application/octet-stream",
            **about,
        }
        about["Content-Length"] = len(content)
        lines = [f"HTTP/1.1 {status} OK", *[f"{name}: {value}" for name, value in about.items()], "", ""]
        self.transport.write("\r\n".join(lines).encode() + (b"" if method == "HEAD" or status == 204 else content))


def unchunked(body):
    """The content of a body in AWS's chunks: `size;chunk-signature=…`, the bytes, and so on until size 0."""
    pieces, at = [], 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size


async def serve(port, delay, songs):
    """Run until SIGTERM; returns the counts."""
    store, done = Store(), asyncio.Event()
    store.put_songs(songs)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    server = await loop.create_server(lambda: Connection(store, delay), "127.0.0.1", port, backlog=1000)
    await done.wait()
    server.close()
    return store.counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("delay", type=float, nargs="?", default=0.03)
    parser.add_argument("songs", type=int, nargs="?", default=0)
    print(json.dumps(asyncio.run(serve(**vars(parser.parse_args())))))
