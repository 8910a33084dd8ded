"""An agent's process: puts a large file on a WebDAV server and fetches it again, as streams, and prints what came of each step as JSON.

usage: dav_client.py SIDECAR URL MEBIBYTES   (the token comes in the environment variable TOKEN)

SIDECAR is the address that connections are led to whatever their URL, as in a pod.
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


class Redirect(httpx.HTTPTransport):
    """Leads every connection to the sidecar."""

    def __init__(self, address, port):
        super().__init__()
        self.to = {"host": address, "port": int(port)}

    def handle_request(self, request):
        request.url = request.url.copy_with(**self.to)
        return super().handle_request(request)


def main():
    sidecar, url, mebibytes = sys.argv[1:]
    headers = {"authorization": f"Bearer {os.environ['TOKEN']}"}
    outcome = {}

    def take(name, step):
        try:
            outcome[name] = step()
        except Exception as error:
            response = getattr(error, "response", None)
            denial = response.headers.get("ostiary-denial") if response is not None else None
            outcome[name] = {"error": f"{type(error).__name__}: {error}", "denial": denial}

    up, down = Endless(int(mebibytes) << 20), Digested()
    transport = Redirect(*sidecar.rsplit(":", 1))
    with httpx.Client(headers=headers, transport=transport, timeout=60) as http:
        client = Client(url, http_client=http)
        take("put", lambda: client.upload_fileobj(up, "archive/q1", overwrite=True, chunk_size=PIECE))
        take("info", lambda: client.info("archive/q1")["content_length"])
        take("get", lambda: client.download_fileobj("archive/q1", down, chunk_size=PIECE))
        take("copy", lambda: client.copy("archive/q1", "archive/q2", overwrite=True))
        take("copied", lambda: client.info("archive/q2")["content_length"])
        take("move", lambda: client.move("archive/q2", "archive/q3", overwrite=True))
        take("moved", lambda: client.info("archive/q3")["content_length"])
        take("copy to another's", lambda: client.copy("archive/q1", "secrets/q1", overwrite=True))
        take("move to another's", lambda: client.move("archive/q3", "secrets/q3", overwrite=True))
        take("remove", lambda: client.remove("archive/q1"))
        take("another's", lambda: client.info("secrets/q1")["content_length"])
    outcome["same"] = (down.length, down.digest.hexdigest()) == (int(mebibytes) << 20, up.digest.hexdigest())
    print(json.dumps(outcome, default=str))


main()
