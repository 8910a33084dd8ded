"""Records what the official SDKs send: each request as a line of JSON, once, from clients that speak to their servers directly.

usage: record.py NODE_FOLDER   (`make recorded` runs it, and writes authz/vectors/recorded.jsonl)

A tee stands between client and server and writes down the bytes. What differs from run to run is made a constant: the host, the
capability, and ids that an SDK draws.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
import socket

MESH = Path(__file__).parent
UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|(?<=mcp-session-id: )[0-9a-f]{32}")
CONSTANT = b"00000000-0000-4000-8000-000000000000"


class Tee:
    """Forwards connections to a Unix socket and keeps what clients send."""

    def __init__(self, to):
        self.to, self.streams = to, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.to)
            stream = bytearray()
            self.streams.append(stream)
            threading.Thread(target=pump, args=(client, server, stream), daemon=True).start()
            threading.Thread(target=pump, args=(server, client, bytearray()), daemon=True).start()

    def requests(self):
        return [request for stream in self.streams for request in split(bytes(stream))]


def pump(source, to, kept):
    while data := source.recv(1 << 16):
        kept += data
        to.sendall(data)
    to.shutdown(socket.SHUT_WR)


def split(stream):
    """The requests of a connection of HTTP/1.1."""
    while stream:
        head, _, rest = stream.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ")
        headers = [[name.lower(), value] for name, value in (field.split(": ", 1) for field in fields)]
        named = dict(headers)
        body, stream = unframed(named, rest)
        path = UUID.sub(CONSTANT, path.encode()).decode()
        yield {"method": method, "path": path, "headers": headers, "body": UUID.sub(CONSTANT, body).decode()}


def unframed(headers, rest):
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            body, rest = body + rest[:length], rest[length + 2 :]
            if length == 0:
                return body, rest
    length = int(headers.get("content-length", "0"))
    return rest[:length], rest[length:]


def serve(script, folder, *more):
    path = f"{folder}/{script}.sock"
    python = [sys.executable, MESH / f"{script}.py", path, f"{folder}/{script}.jsonl", *more]
    process = subprocess.Popen(python, stdout=sys.stderr)
    while not os.path.exists(path):
        if process.poll() is not None:
            sys.exit(f"{script} ended")
        time.sleep(0.05)
    return process, Tee(path)


def run(*command, **environment):
    done = subprocess.run([str(part) for part in command], env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def kept(request, client, host, seen):
    """A request as it is kept: once, and by what it is; None for what was kept already."""
    headers = []
    for name, value in request["headers"]:
        if name in ("content-length", "transfer-encoding", "connection", "keep-alive"):
            continue
        value = {"host": host, "authorization": "Bearer {token}"}.get(name, value)
        headers.append([name, UUID.sub(CONSTANT, f"{name}: {value}".encode()).decode().split(": ", 1)[1]])
    body = request["body"]
    message = json.loads(body) if body else {}
    named = message.get("params", {}).get("name") or message.get("params", {}).get("uri")
    what = " ".join(part for part in [message.get("method"), named] if part) or f"{request['method']} {request['path']}"
    if (client, what) in seen:
        return None
    seen.add((client, what))
    return {"client": client, "what": what, **request, "headers": headers, "body": body}


def main():
    (node_folder,) = sys.argv[1:]
    node = Path(node_folder).resolve()
    npm = json.loads((node / "package.json").read_text())["dependencies"]
    version = importlib.metadata.version
    names = ["pandas", "prompt:summary", "report://2026q1", "table://sales/sales_q1_2026"]
    mcp_host, a2a_host = "mcp.tools.svc.cluster.local:8080", "writer-2.agents.svc.cluster.local:8080"
    lines, seen = [], set()

    def keep(tee, client, host):
        lines.extend(line for request in tee.requests() if (line := kept(request, client, host, seen)))
        tee.streams.clear()

    with tempfile.TemporaryDirectory() as folder:
        mcp, tee = serve("mcp_server", folder)
        for mode in ["auto", "legacy"]:
            url = f"http://127.0.0.1:{tee.port}/mcp"
            run(sys.executable, MESH / "mcp_client.py", mode, url, mcp_host, *names, TOKEN="t")
            keep(tee, f"Python mcp {version('mcp')}, {mode}", mcp_host)
        preload = f"--preserve-symlinks --import={node / 'through.mjs'}"
        script = [node / "node_modules/.bin/node", "--preserve-symlinks", "--preserve-symlinks-main", node / "client.mjs"]
        sidecar = f"127.0.0.1:{tee.port}"
        run(*script, f"http://{mcp_host}/mcp", *names, NODE_OPTIONS=preload, SIDECAR=sidecar, TOKEN="t")
        keep(tee, f"TypeScript @modelcontextprotocol/sdk {npm['@modelcontextprotocol/sdk']}", mcp_host)
        mcp.terminate()
        a2a, tee = serve("a2a_server", folder, a2a_host)
        for binding, era in [("JSONRPC", "1.0"), ("HTTP+JSON", "1.0"), ("JSONRPC", "0.3"), ("HTTP+JSON", "0.3")]:
            client = [sys.executable, MESH / "a2a_client.py", binding, era]
            run(*client, f"127.0.0.1:{tee.port}", f"http://{a2a_host}", TOKEN="t")
            keep(tee, f"Python a2a-sdk {version('a2a-sdk')}, {era} {binding}", a2a_host)
        a2a.terminate()
    for line in lines:
        print(json.dumps(line))


main()
