"""An agent's process: lists what there is and uses it with the official SDK's client, and prints what came of each as JSON.

usage: mcp_client.py MODE URL HOST NAME...   (a tool, `prompt:NAME` or the URI of a resource; the token comes in the environment variable TOKEN)
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
    mode, url, host, *names = sys.argv[1:]
    headers = {"host": host, "authorization": f"Bearer {os.environ['TOKEN']}"}
    async with httpx2.AsyncClient(headers=headers) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            outcome = {
                "listed": sorted(tool.name for tool in (await client.list_tools()).tools),
                "prompts": sorted(prompt.name for prompt in (await client.list_prompts()).prompts),
                "resources": sorted(str(resource.uri) for resource in (await client.list_resources()).resources),
                "templates": sorted(
                    template.uri_template for template in (await client.list_resource_templates()).resource_templates
                ),
            }
            for name in names:
                outcome[name] = await use(client, name)
    print(json.dumps(outcome))


async def use(client, name):
    try:
        if name.startswith("prompt:"):
            result = await client.get_prompt(name.removeprefix("prompt:"))
            return {"text": result.messages[0].content.text}
        if "://" in name:
            return {"text": (await client.read_resource(name)).contents[0].text}
        return {"text": (await client.call_tool(name, {})).content[0].text}
    except MCPError as error:
        return {"error": error.error.code, "data": error.error.data}


asyncio.run(main())
