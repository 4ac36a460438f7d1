"""An MCP server without an SDK: it starts at once, is of the older kind, and misbehaves.

    python tests/tools/tiny_server.py [mute | leaves | stubborn]

`mute`: it never answers the question for the newer handshake, and says on its standard error that
it was asked. `leaves`: that question ends it. `stubborn`: it outlives the end of its input
and SIGTERM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

CHILD = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"


def write(message: object) -> None:
    write_raw(orjson.dumps(message) + b"\n")


def write_raw(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def answer(number: object, result: object) -> None:
    write({"jsonrpc": "2.0", "id": number, "result": result})


def env(_number: object, _given: dict[str, Any]) -> str:
    return orjson.dumps(dict(os.environ)).decode()


def where(_number: object, _given: dict[str, Any]) -> str:
    pid = os.getpid()
    return f"{Path.cwd()} {pid} {os.getpgid(pid) == pid} {os.getsid(pid) == pid}"


def end(_number: object, given: dict[str, Any]) -> None:
    os._exit(given["status"])


def kill(_number: object, given: dict[str, Any]) -> None:
    os.kill(os.getpid(), given["signal"])


def freeze(_number: object, _given: dict[str, Any]) -> None:
    signal.pause()


def raw(number: object, given: dict[str, Any]) -> None:
    for text in given["pieces"] * given.get("times", 1):
        write_raw(text.replace("ID", str(number)).encode("latin-1"))


def child(_number: object, given: dict[str, Any]) -> str:
    started = subprocess.Popen([sys.executable, "-S", "-c", CHILD])
    Path(given["path"]).write_text(str(started.pid), encoding="utf-8")
    if given.get("exit"):
        os._exit(3)
    return "started"


def ask(_number: object, given: dict[str, Any]) -> str | None:
    for asked in range(given["times"]):
        write({"jsonrpc": "2.0", "id": f"q{asked}", "method": "ping"})
    return "asked" if given.get("answers") else None


def say(_number: object, given: dict[str, Any]) -> str:
    sys.stderr.write(given["text"])
    sys.stderr.flush()
    return "said"


def echo(_number: object, given: dict[str, Any]) -> str:
    return orjson.dumps(given).decode()


TOOLS: Final[dict[str, Callable[[object, dict[str, Any]], str | None]]] = {
    "ask": ask,
    "child": child,
    "echo": echo,
    "env": env,
    "exit": end,
    "freeze": freeze,
    "kill": kill,
    "raw": raw,
    "say": say,
    "where": where,
}
"""What runs each tool; None: it answers nothing."""


def heed(message: dict[str, Any], behaviour: str) -> None:
    """Answer one message."""
    number = message.get("id")
    match message.get("method"):
        case "server/discover" if behaviour == "mute":
            sys.stderr.write("asked\n")
            sys.stderr.flush()
        case "server/discover" if behaviour == "leaves":
            os._exit(9)
        case "initialize":
            info = {"name": "tiny", "version": "1"}
            version = message["params"]["protocolVersion"]
            offers: dict[str, object] = {"tools": {}}
            result = {"protocolVersion": version, "serverInfo": info, "capabilities": offers}
            answer(number, result)
        case "tools/list":
            schema = {"type": "object"}
            answer(number, {"tools": [{"name": name, "inputSchema": schema} for name in TOOLS]})
        case "tools/call":
            params = message["params"]
            text = TOOLS[params["name"]](number, params.get("arguments", {}))
            if text is not None:
                answer(number, {"content": [{"type": "text", "text": text}]})
        case str() if number is not None:
            error = {"code": -32601, "message": "Method not found"}
            write({"jsonrpc": "2.0", "id": number, "error": error})


def main() -> None:
    """Serve until the input ends."""
    behaviour = sys.argv[1] if len(sys.argv) > 1 else ""
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        heed(orjson.loads(line), behaviour)
    if behaviour == "stubborn":
        signal.pause()


if __name__ == "__main__":
    main()
