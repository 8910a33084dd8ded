"""An agent's process: lists what there is and uses it with the official SDK's client, and prints what came of each as JSON.

usage: mcp_client.py MODE URL HOST NAME...   (a tool, `prompt:NAME`, the URI of a resource, or `updates:TOOL` for what the server says
by itself when the tool is called; the token comes in the environment variable TOKEN)
"""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import ResourceUpdatedNotification


async def main():
    mode, url, host, *names = sys.argv[1:]
    headers = {"host": host, "authorization": f"Bearer {os.environ['TOKEN']}"}
    async with httpx2.AsyncClient(headers=headers) as http:
        updates = asyncio.Queue()

        async def on_message(message):
            if isinstance(message, ResourceUpdatedNotification):
                updates.put_nowait(str(message.params.uri))

        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, message_handler=on_message) as client:
            outcome = {
                "listed": sorted(tool.name for tool in (await client.list_tools()).tools),
                "prompts": sorted(prompt.name for prompt in (await client.list_prompts()).prompts),
                "resources": sorted(str(resource.uri) for resource in (await client.list_resources()).resources),
                "templates": sorted(
                    template.uri_template for template in (await client.list_resource_templates()).resource_templates
                ),
            }
            for name in names:
                outcome[name] = await use(client, name, updates)
    print(json.dumps(outcome))


async def use(client, name, updates):
    try:
        if name.startswith("updates:"):
            return await update_by(client, name.removeprefix("updates:"), updates)
        if name.startswith("prompt:"):
            result = await client.get_prompt(name.removeprefix("prompt:"))
            return {"text": result.messages[0].content.text}
        if "://" in name:
            return {"text": (await client.read_resource(name)).contents[0].text}
        return {"text": (await client.call_tool(name, {})).content[0].text}
    except MCPError as error:
        return {"error": error.error.code, "data": error.error.data}


async def update_by(client, tool, updates):
    """The session's stream is opened beside the calls: what the server says before is told to nobody."""
    for _ in range(100):
        await client.call_tool(tool, {})
        try:
            return {"text": await asyncio.wait_for(updates.get(), 0.1)}
        except TimeoutError:
            continue
    return {"text": "never told"}


asyncio.run(main())
