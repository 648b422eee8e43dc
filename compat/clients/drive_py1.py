"""Drives tmws through PyPI mcp 1.x: one connection per run, the steps given on stdin as JSON."""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import PromptReference
from pydantic import AnyUrl


def transport(plan):
    """What yields the streams of one connection."""
    over, url = plan["over"], plan.get("url")
    headers = {"Authorization": f"Bearer {plan['token']}"} if plan.get("token") else None
    if over == "stdio":
        server = StdioServerParameters(command=plan["command"], args=plan["args"], env={**os.environ, **plan["env"]})
        return stdio_client(server)
    if over == "ws":
        from mcp.client.websocket import websocket_client

        return websocket_client(url)  # it can set no headers: a token stands in the URL
    if over == "sse":
        from mcp.client.sse import sse_client

        return sse_client(url, headers=headers)
    from mcp.client.streamable_http import streamablehttp_client

    return streamablehttp_client(url, headers=headers)


async def run_tasks(session, tasks, seen):
    """Runs calls as tasks; only 1.23 and later know of them."""
    from mcp.types import CallToolResult

    seen["tasks"] = []
    for name, arguments in tasks:
        made = (await session.experimental.call_tool_as_task(name, arguments, ttl=60_000)).task
        statuses = [made.status]
        async for stands in session.experimental.poll_task(made.taskId):
            statuses.append(stands.status)
        result = await session.experimental.get_task_result(made.taskId, CallToolResult)
        seen["tasks"].append({"id": made.taskId, "statuses": statuses, "isError": bool(result.isError),
                              "text": result.content[0].text})
    kept = (await session.experimental.list_tasks()).tasks
    seen["kept"] = [[task.taskId, task.status] for task in kept]


def callbacks(plan, seen):
    """What answers the server's questions, where the plan has an answer; older clients know of none."""
    if "form" not in plan:
        return {}
    from mcp.types import ElicitResult

    async def fill_in(_, params):
        seen.setdefault("asked", []).append(params.message)
        return ElicitResult(action="accept", content=plan["form"])

    return {"elicitation_callback": fill_in}


async def main() -> None:
    plan = json.load(sys.stdin)
    seen = {}
    async with (
        transport(plan) as (read, write, *_),
        ClientSession(read, write, **callbacks(plan, seen)) as session,
    ):
        seen["revision"] = str((await session.initialize()).protocolVersion)
        seen["tools"] = [tool.name for tool in (await session.list_tools()).tools]
        seen["calls"] = []
        for name, arguments in plan["calls"]:
            result = await session.call_tool(name, arguments)
            seen["calls"].append({"isError": bool(result.isError), "text": result.content[0].text})
        if "tasks" in plan:
            await run_tasks(session, plan["tasks"], seen)
        seen["listed"] = {
            "resources": [str(resource.uri) for resource in (await session.list_resources()).resources],
            "prompts": [prompt.name for prompt in (await session.list_prompts()).prompts],
        }
        seen["resources"] = [(await session.read_resource(AnyUrl(uri))).contents[0].text for uri in plan["resources"]]
        seen["prompts"] = [
            (await session.get_prompt(name, arguments)).messages[0].content.text for name, arguments in plan["prompts"]
        ]
        seen["completions"] = [
            (await session.complete(PromptReference(type="ref/prompt", name=prompt), argument)).completion.values
            for prompt, argument in plan.get("completions", [])
        ]
    json.dump(seen, sys.stdout)


asyncio.run(main())
