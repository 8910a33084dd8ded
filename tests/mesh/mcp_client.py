"""An agent's process: lists tools and calls them with the official SDK's client, and prints what came of each as JSON.

usage: mcp_client.py MODE URL HOST TOOL...   (the token comes in the environment variable TOKEN)
"""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError


async def main():
    mode, url, host, *tools = sys.argv[1:]
    headers = {"host": host, "authorization": f"Bearer {os.environ['TOKEN']}"}
    async with httpx2.AsyncClient(headers=headers) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            outcome = {"listed": sorted(tool.name for tool in (await client.list_tools()).tools)}
            for tool in tools:
                outcome[tool] = await call(client, tool)
    print(json.dumps(outcome))


async def call(client, tool):
    try:
        result = await client.call_tool(tool, {})
    except MCPError as error:
        return {"error": error.error.code, "data": error.error.data}
    return {"text": result.content[0].text}


asyncio.run(main())
