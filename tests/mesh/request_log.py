"""Writes down every request that reaches an application, for both servers of the mini mesh."""

import itertools
import json


class RequestLog:
    """Writes one line a request: when its headers come, and again when its body is complete."""

    def __init__(self, application, path):
        self.application = application
        self.file = open(path, "a", encoding="utf-8", buffering=1)
        self.numbers = itertools.count()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.application(scope, receive, send)
        path, query = scope["raw_path"], scope["query_string"]
        entry = {
            "number": next(self.numbers),
            "method": scope["method"],
            "path": (path + b"?" + query if query else path).decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        }
        self.write(entry, b"", complete=False)
        body = bytearray()

        async def logged_receive():
            message = await receive()
            if message["type"] == "http.request":
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    self.write(entry, bytes(body), complete=True)
            return message

        return await self.application(scope, logged_receive, send)

    def write(self, entry, body, complete):
        line = {**entry, "body": body.decode("utf-8", "replace"), "complete": complete}
        self.file.write(json.dumps(line) + "\n")
