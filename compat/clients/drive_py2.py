"""Drives tmws through PyPI mcp 2.x in one of its modes: auto, legacy, or a pinned revision."""

import asyncio
import json
import os
import sys

from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.types import ElicitResult, PromptReference


def server(plan):
    """What the client is given to connect to."""
    if plan["over"] == "stdio":
        return StdioServerParameters(command=plan["command"], args=plan["args"], env={**os.environ, **plan["env"]})
    if not plan.get("token"):
        return plan["url"]
    headers = {"Authorization": f"Bearer {plan['token']}"}
    return streamable_http_client(plan["url"], http_client=create_mcp_http_client(headers=headers))


def callbacks(plan, seen):
    """What answers the server's questions, where the plan has an answer."""
    if "form" not in plan:
        return {}

    async def fill_in(_, params):
        seen.setdefault("asked", []).append(params.message)
        return ElicitResult(action="accept", content=plan["form"])

    return {"elicitation_callback": fill_in}


async def main() -> None:
    plan = json.load(sys.stdin)
    seen = {}
    async with Client(server(plan), mode=plan["mode"], **callbacks(plan, seen)) as client:
        seen["revision"] = str(client.protocol_version)
        seen["tools"] = [tool.name for tool in (await client.list_tools()).tools]
        seen["calls"] = []
        for name, arguments in plan["calls"]:
            result = await client.call_tool(name, arguments)
            seen["calls"].append({"isError": bool(result.is_error), "text": result.content[0].text})
        seen["listed"] = {
            "resources": [str(resource.uri) for resource in (await client.list_resources()).resources],
            "prompts": [prompt.name for prompt in (await client.list_prompts()).prompts],
        }
        seen["resources"] = [(await client.read_resource(uri)).contents[0].text for uri in plan["resources"]]
        seen["prompts"] = [
            (await client.get_prompt(name, arguments)).messages[0].content.text for name, arguments in plan["prompts"]
        ]
        seen["completions"] = [
            (await client.complete(PromptReference(type="ref/prompt", name=prompt), argument)).completion.values
            for prompt, argument in plan.get("completions", [])
        ]
    json.dump(seen, sys.stdout)


asyncio.run(main())
