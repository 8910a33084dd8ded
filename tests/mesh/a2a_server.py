"""An agent that others call: an A2A server on the official SDK, which logs every request that reaches it.

usage: a2a_server.py SOCKET LOGFILE AUTHORITY
"""

import base64
import json
import sys

import uvicorn
from a2a.auth.user import User
from a2a.helpers.proto_helpers import new_text_artifact, new_text_message
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes.agent_card_routes import create_agent_card_routes
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.server.routes.jsonrpc_routes import create_jsonrpc_routes
from a2a.server.routes.rest_routes import create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    Task,
    TaskState,
    TaskStatus,
)
from request_log import RequestLog
from starlette.applications import Starlette


class Scribe(AgentExecutor):
    """Writes down what it is told, a word at a time; told to `ask`, it asks first."""

    async def execute(self, context, event_queue):
        if context.current_task is None:
            status = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
            task = Task(id=context.task_id, context_id=context.context_id, status=status)
            await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        text = context.get_user_input()
        if text == "ask":
            return await updater.requires_input(new_text_message("Which quarter?"))
        for word in text.split():
            await updater.add_artifact(new_text_artifact("word", word).parts, name="word")
        await updater.complete()

    async def cancel(self, context, event_queue):
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


class Caller(User):
    """Who calls, by the claims that the sidecar has verified."""

    def __init__(self, claims):
        self.name = f"{claims['agent_id']}/{claims['operation_id']}" if claims else ""

    @property
    def is_authenticated(self):
        return bool(self.name)

    @property
    def user_name(self):
        return self.name


class CallerFromClaims(DefaultServerCallContextBuilder):
    """Holds tasks to their openers: the SDK's store keeps each caller's apart."""

    def build_user(self, request):
        claims = request.headers.get("ostiary-claims")
        return Caller(claims and json.loads(base64.urlsafe_b64decode(claims + "==")))


def card(authority, name):
    url = f"http://{authority}"
    skill = AgentSkill(id="write", name="write", description="Writes down what it is told.", tags=["text"])
    interfaces = [
        AgentInterface(protocol_binding=binding, url=url + path, protocol_version=version)
        for version in ["1.0", "0.3"]
        for binding, path in [("JSONRPC", "/"), ("HTTP+JSON", "")]
    ]
    return AgentCard(
        name=name,
        description="An agent of the mini mesh.",
        version="1.0.0",
        supported_interfaces=interfaces,
        capabilities=AgentCapabilities(streaming=True, extended_agent_card=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[skill],
    )


def main():
    socket, log, authority = sys.argv[1:]
    handler = DefaultRequestHandler(
        agent_executor=Scribe(),
        task_store=InMemoryTaskStore(),
        agent_card=card(authority, "scribe"),
        extended_agent_card=card(authority, "scribe, to those it knows"),
    )
    caller = CallerFromClaims()
    routes = [
        *create_agent_card_routes(card(authority, "scribe")),
        *create_jsonrpc_routes(handler, "/", context_builder=caller, enable_v0_3_compat=True),
        *create_rest_routes(handler, context_builder=caller, enable_v0_3_compat=True),
    ]
    uvicorn.run(RequestLog(Starlette(routes=routes), log), uds=socket, log_level="warning")


if __name__ == "__main__":
    main()
