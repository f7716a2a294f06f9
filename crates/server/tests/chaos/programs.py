"""A remote agent, and an MCP server, that do what the plan in a message says and kill themselves now and then.

programs.py agent PORT | programs.py mcp, with the ledger in CHAOS_LEDGER. Once there is a file `over` beside it, they live on.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LEDGER = os.open(os.environ["CHAOS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
OVER = os.path.join(os.path.dirname(os.environ["CHAOS_LEDGER"]), "over")

BEGUN = threading.Event()


def die_some_time():
    BEGUN.wait()
    time.sleep(random.uniform(1.5, 5))
    if not os.path.exists(OVER):
        os.kill(os.getpid(), signal.SIGKILL)


def pause():
    time.sleep(random.choice([0.001, 0.005, 0.02, 0.1]))


def run(name, arguments):
    """The effect of a tool, and what it comes to."""
    pause()
    os.write(LEDGER, f"{time.time_ns() // 1000} 0 {name} {arguments['id']}\n".encode())
    pause()
    return f"{arguments['id']} done" + (" as edited" if arguments.get("edited") else "")


def step(asked):
    messages = asked["messages"]
    begin = max(at for at, message in enumerate(messages) if message["role"] == "user")
    of_turn = messages[begin + 1 :]
    token, plan = messages[begin]["content"].split(":", 1)
    steps = [each.strip().split("+") for each in plan.split(",") if each.strip()]
    number = sum(message["role"] == "assistant" for message in of_turn)
    told = {"state": asked["state"] or {"facts": {}}}
    if number == len(steps):
        results = [message["content"] for message in of_turn if message["role"] == "tool"]
        return told | {"answer": f"{token} is answered: {', '.join(results)}"}
    calls = []
    for index, name in enumerate(steps[number]):
        call = f"{token}-{number}-{index}"
        traits = {"is_repeatable": name == "safe", "needs_approval": name == "approved"}
        calls.append({"id": call, "name": name, "arguments": {"id": call}, "traits": traits})
    return told | {"tool_calls": calls, "content": f"{token} takes step {number} now"}


def tool(asked):
    call = asked["call"]
    if call["name"] == "asks" and "answer" not in asked:
        return {"ask": f"May {call['id']} run?"}
    patch = {"op": "add", "path": f"/facts/{call['id']}", "value": call["name"]}
    return {"result": run(call["name"], call["arguments"]), "patch": [patch]}


class Agent(BaseHTTPRequestHandler):
    def do_POST(self):
        BEGUN.set()
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        pause()
        answer = step(asked) if asked["kind"] == "step" else tool(asked)
        self.send_response(200)
        self.end_headers()
        content = answer.get("content", "")
        for half in content[: len(content) // 2], content[len(content) // 2 :]:
            if half:
                self.wfile.write(json.dumps({"delta": half}).encode() + b"\n")
                pause()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1000

    def handle_error(self, *_):
        """Who has asked is gone."""


def serve_mcp():
    schema = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
    tools = [{"name": name, "description": name, "inputSchema": schema} for name in ["safe", "unsafe", "approved"]]
    lock = threading.Lock()

    def answer(asked):
        params = asked.get("params", {})
        match asked["method"]:
            case "initialize":
                known = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}}
                result = known | {"serverInfo": {"name": "chaos", "version": "1"}}
            case "tools/list":
                result = {"tools": tools}
            case "tools/call":
                BEGUN.set()
                said = run(f"mcp__{params['name']}", params["arguments"])
                result = {"content": [{"type": "text", "text": said}]}
            case _:
                result = {}
        with lock:
            print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)

    for line in sys.stdin:
        asked = json.loads(line)
        if "id" in asked:
            threading.Thread(target=answer, args=[asked], daemon=True).start()


threading.Thread(target=die_some_time, daemon=True).start()
if sys.argv[1] == "mcp":
    serve_mcp()
else:
    Server(("127.0.0.1", int(sys.argv[2])), Agent).serve_forever()
