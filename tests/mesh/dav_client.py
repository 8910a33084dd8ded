"""An agent's process: puts a large file on a WebDAV server and fetches it again, as streams, and prints what came of each step as JSON.

usage: dav_client.py URL HOST MEBIBYTES   (the token comes in the environment variable TOKEN)
"""

import hashlib
import io
import json
import os
import sys

import httpx
from webdav4.client import Client

PIECE = 64 << 10


class Endless(io.RawIOBase):
    """So many bytes that are made as they are read, and their digest."""

    def __init__(self, length):
        self.left, self.made, self.digest = length, 0, hashlib.sha256()

    def readable(self):
        return True

    def read(self, size=-1):
        size = min(PIECE, self.left)
        piece = self.made.to_bytes(8, "big") * (size // 8)
        self.left, self.made = self.left - size, self.made + 1
        self.digest.update(piece)
        return piece


class Digested(io.RawIOBase):
    """Takes bytes, and keeps their number and digest."""

    def __init__(self):
        self.length, self.digest = 0, hashlib.sha256()

    def write(self, piece):
        self.length += len(piece)
        self.digest.update(piece)
        return len(piece)


def main():
    url, host, mebibytes = sys.argv[1:]
    headers = {"host": host, "authorization": f"Bearer {os.environ['TOKEN']}"}
    outcome = {}

    def take(name, step):
        try:
            outcome[name] = step()
        except Exception as error:
            response = getattr(error, "response", None)
            denial = response.headers.get("ostiary-denial") if response is not None else None
            outcome[name] = {"error": f"{type(error).__name__}: {error}", "denial": denial}

    up, down = Endless(int(mebibytes) << 20), Digested()
    with httpx.Client(headers=headers, timeout=60) as http:
        client = Client(url, http_client=http)
        take("put", lambda: client.upload_fileobj(up, "archive/q1", overwrite=True, chunk_size=PIECE))
        take("info", lambda: client.info("archive/q1")["content_length"])
        take("get", lambda: client.download_fileobj("archive/q1", down, chunk_size=PIECE))
        take("remove", lambda: client.remove("archive/q1"))
        take("another's", lambda: client.info("secrets/q1")["content_length"])
    outcome["same"] = (down.length, down.digest.hexdigest()) == (int(mebibytes) << 20, up.digest.hexdigest())
    print(json.dumps(outcome, default=str))


main()
