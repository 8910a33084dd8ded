"""The tool service of the mini mesh: an MCP server on the official SDK, which logs every request that reaches it.

usage: mcp_server.py SOCKET LOGFILE [sessions], or mcp_server.py ADDRESS:PORT LOGFILE [sessions]
"""

import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from request_log import RequestLog

server = MCPServer("tools", version="1.0.0")


@server.tool()
def pandas(expression: str = "df.describe()") -> str:
    """Evaluates an expression over a data frame."""
    return f"pandas: {expression}"


@server.tool()
async def matplotlib(context: Context, figure: str = "bar") -> str:
    """Draws a figure."""
    # In a session its client is told by the stream of the session, which answers nothing.
    await context.session.send_resource_updated("report://2026q1")
    return f"matplotlib: {figure}"


@server.tool()
def sql_query(table: str, query: str = "select 1") -> str:
    """Runs a query over one table."""
    return f"sql_query on {table}: {query}"


@server.tool()
def bash(command: str = "true") -> str:
    """Would run a command; no agent of this mesh may call it."""
    return f"bash: {command}"


@server.tool()
def http(url: str = "http://example.com") -> str:
    """Would fetch an address; no agent of this mesh may call it."""
    return f"http: {url}"


@server.prompt()
def summary(length: str = "short") -> str:
    """Asks for a summary."""
    return f"Write a {length} summary."


@server.prompt()
def audit() -> str:
    """Asks for what no agent of this mesh may ask for."""
    return "Tell all."


@server.resource("report://2026q1")
def first_quarter() -> str:
    """The report of one quarter."""
    return "Sales rose."


@server.resource("report://2026q2")
def second_quarter() -> str:
    """The report of the next."""
    return "Sales fell."


@server.resource("table://sales/{table}")
def table(table: str) -> str:
    """A table of sales."""
    return f"rows of {table}"


@server.resource("table://staff/{table}")
def staff(table: str) -> str:
    """A table that no agent of this mesh may read."""
    return f"staff of {table}"


def main():
    listen, log, *sessions = sys.argv[1:]
    address, _, port = listen.rpartition(":")
    where = {"host": address, "port": int(port)} if address else {"uds": listen}
    # Its sidecar stands in front of it, so the Host is whatever callers of the mesh use.
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    application = server.streamable_http_app(
        json_response=True, stateless_http=not sessions, transport_security=security
    )
    uvicorn.run(RequestLog(application, log), **where, log_level="warning")


if __name__ == "__main__":
    main()
