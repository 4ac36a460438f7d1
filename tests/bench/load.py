"""The load: a process of its own that posts messages over kept-alive connections.

    python -m tests.bench.load HOST PORT TOKEN CONNECTIONS SECONDS

Prints how many answers came a second, and how many were not 200.
"""

from __future__ import annotations

import asyncio
import sys
import time

import anyio
import orjson

WARM_UP_S = 0.5
CHATS = 50
"""Sessions of each connection."""


async def _connection(
    number: int, host: str, port: int, token: str, until: list[float]
) -> list[int]:
    reader, writer = await asyncio.open_connection(host, port)
    sent = done = failed = 0
    try:
        while time.perf_counter() < until[1]:
            sent += 1
            chat = f"c{number}-{sent % CHATS}"
            body = orjson.dumps({"chat_id": chat, "text": "How is the weather?"})
            writer.write(
                b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %b\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (port, token.encode(), len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            failed += not head.startswith(b"HTTP/1.1 200")
            done += until[0] <= time.perf_counter() < until[1]
    finally:
        writer.close()
    return [done, failed]


async def main(host: str, port: int, token: str, connections: int, seconds: float) -> None:
    """Post for some seconds and print the rate."""
    start = time.perf_counter()
    until = [start + WARM_UP_S, start + WARM_UP_S + seconds]
    results: list[list[int]] = []

    async def one(number: int) -> None:
        results.append(await _connection(number, host, port, token, until))

    async with anyio.create_task_group() as group:
        for number in range(connections):
            group.start_soon(one, number)
    done = sum(result[0] for result in results)
    failed = sum(result[1] for result in results)
    sys.stdout.write(orjson.dumps({"per_s": done / seconds, "failed": failed}).decode() + "\n")


if __name__ == "__main__":
    anyio.run(
        main,
        sys.argv[1],
        int(sys.argv[2]),
        sys.argv[3],
        int(sys.argv[4]),
        float(sys.argv[5]),
        backend_options={"use_uvloop": True},
    )
