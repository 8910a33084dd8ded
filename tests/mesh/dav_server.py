"""The storage service of a mesh: a WebDAV server, which logs every request that reaches it.

usage: dav_server.py SOCKET LOGFILE FOLDER
"""

import sys

import uvicorn
from a2wsgi import WSGIMiddleware
from request_log import RequestLog
from wsgidav.wsgidav_app import WsgiDAVApp


def main():
    socket, log, folder = sys.argv[1:]
    files = WsgiDAVApp(
        {
            "provider_mapping": {"/": folder},
            "simple_dc": {"user_mapping": {"*": True}},
            "dir_browser": {"enable": False},
            "logging": {"enable": False},
            "verbose": 1,
        }
    )
    uvicorn.run(RequestLog(WSGIMiddleware(files), log), uds=socket, log_level="warning")


if __name__ == "__main__":
    main()
