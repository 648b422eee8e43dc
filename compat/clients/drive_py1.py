"""Drives tmws through PyPI mcp 1.x: one connection per run, the steps given on stdin as JSON."""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
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


async def main() -> None:
    plan = json.load(sys.stdin)
    seen = {}
    async with transport(plan) as (read, write, *_), ClientSession(read, write) as session:
        seen["revision"] = str((await session.initialize()).protocolVersion)
        seen["tools"] = [tool.name for tool in (await session.list_tools()).tools]
        seen["calls"] = []
        for name, arguments in plan["calls"]:
            result = await session.call_tool(name, arguments)
            seen["calls"].append({"isError": bool(result.isError), "text": result.content[0].text})
        seen["listed"] = {
            "resources": [str(resource.uri) for resource in (await session.list_resources()).resources],
            "prompts": [prompt.name for prompt in (await session.list_prompts()).prompts],
        }
        seen["resources"] = [(await session.read_resource(AnyUrl(uri))).contents[0].text for uri in plan["resources"]]
        seen["prompts"] = [
            (await session.get_prompt(name, arguments)).messages[0].content.text for name, arguments in plan["prompts"]
        ]
    json.dump(seen, sys.stdout)


asyncio.run(main())
