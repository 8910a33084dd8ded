"""An agent's process: calls another agent with the official SDK's client, and prints what came of each step as JSON.

usage: a2a_client.py BINDING VERSION SIDECAR URL [TASK]   (the token comes in the environment variable TOKEN)

BINDING is JSONRPC or HTTP+JSON, VERSION 1.0 or 0.3, SIDECAR the address that connections are led to whatever their URL, as in
a pod; TASK is a task of somebody else's.
"""

import asyncio
import json
import os
import sys

import httpx
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.client import ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.helpers.proto_helpers import new_text_message
from a2a.types.a2a_pb2 import (
    CancelTaskRequest,
    GetExtendedAgentCardRequest,
    GetTaskRequest,
    ListTasksRequest,
    Role,
    SendMessageRequest,
    TaskState,
)


class Redirect(httpx.AsyncHTTPTransport):
    """Leads every connection to the sidecar."""

    def __init__(self, address, port):
        super().__init__()
        self.to = {"host": address, "port": int(port)}

    async def handle_async_request(self, request):
        request.url = request.url.copy_with(**self.to)
        return await super().handle_async_request(request)


class Steps:
    """Takes steps and notes what came of each; of one that a sidecar refused, the code of the denial."""

    def __init__(self):
        self.outcome = {}
        self.denial = None

    async def note_denial(self, response):
        self.denial = response.headers.get("ostiary-denial", self.denial)

    async def take(self, name, step):
        self.denial = None
        try:
            self.outcome[name] = await step
        except Exception as error:
            self.outcome[name] = {"denial": self.denial, "error": f"{type(error).__name__}: {error}"}
        return self.outcome[name]


async def main():
    binding, version, sidecar, url, *others = sys.argv[1:]
    steps = Steps()
    headers = {"authorization": f"Bearer {os.environ['TOKEN']}"}
    transport = Redirect(*sidecar.rsplit(":", 1))
    hooks = {"response": [steps.note_denial]}
    async with httpx.AsyncClient(headers=headers, transport=transport, event_hooks=hooks, timeout=30) as http:
        await steps.take("card", name_of(A2ACardResolver(http, url).get_agent_card()))
        if "denial" not in steps.outcome["card"]:
            card = await A2ACardResolver(http, url).get_agent_card()
            wanted = [i for i in card.supported_interfaces if (i.protocol_binding, i.protocol_version) == (binding, version)]
            del card.supported_interfaces[:]
            card.supported_interfaces.extend(wanted)
            client = lambda streaming: ClientFactory(
                ClientConfig(httpx_client=http, streaming=streaming, supported_protocol_bindings=[binding])
            ).create(card)
            await call(steps, client(False), client(True), others)
    print(json.dumps(steps.outcome))


async def call(steps, plain, streaming, others):
    answer = await steps.take("answer", told(plain, "Sales rose."))
    await steps.take("stream", told(streaming, "Sales rose."))
    await steps.take("extended", name_of(plain.get_extended_agent_card(GetExtendedAgentCardRequest())))
    await steps.take("get", state_of(plain.get_task(GetTaskRequest(id=answer.get("task", "t")))))
    await steps.take("list", listed(plain))
    asked = await steps.take("asked", told(plain, "ask"))
    named = {"task_id": asked.get("task", "t"), "context_id": asked.get("context", "c")}
    await steps.take("list of a context", listed(plain, context_id=named["context_id"]))
    await steps.take("reply", told(streaming, "The first.", **named))
    asked = await steps.take("asked again", told(plain, "ask"))
    await steps.take("cancel", state_of(plain.cancel_task(CancelTaskRequest(id=asked.get("task", "t")))))
    for task in others:
        await steps.take("another's", state_of(plain.get_task(GetTaskRequest(id=task))))
        await steps.take("another's cancelled", state_of(plain.cancel_task(CancelTaskRequest(id=task))))


async def name_of(card):
    return {"name": (await card).name}


async def state_of(task):
    return {"state": TaskState.Name((await task).status.state)}


async def listed(client, **named):
    return {"tasks": [task.id for task in (await client.list_tasks(ListTasksRequest(**named))).tasks]}


async def told(client, text, **named):
    """Sends a message, and says what came back: the kinds of events, the words, and the task's last state."""
    message = new_text_message(text, role=Role.ROLE_USER, **named)
    outcome = {"events": [], "words": []}
    async for event in client.send_message(SendMessageRequest(message=message)):
        kind = event.WhichOneof("payload")
        outcome["events"].append(kind)
        part = getattr(event, kind)
        artifacts = part.artifacts if kind == "task" else [part.artifact] if kind == "artifact_update" else []
        outcome["words"] += [artifact.parts[0].text for artifact in artifacts]
        if kind in ("task", "status_update"):
            outcome["state"] = TaskState.Name(part.status.state)
        outcome["task"] = part.id if kind == "task" else part.task_id
        outcome["context"] = part.context_id
    return outcome


asyncio.run(main())
