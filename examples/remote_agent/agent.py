"""An agent of AgentKit in Python: uvicorn agent:app --port 9000, for a RemoteAgent at http://127.0.0.1:9000/."""

import hashlib
import hmac
import os
import time

from fastapi import FastAPI, HTTPException, Request

app = FastAPI()
SECRET = os.environ["AGENT_SECRET"].encode()
paid: dict[str, str] = {}  # A real shop has a database, with this key as its primary key.


@app.post("/")
async def agent(request: Request):
    body, parts = await request.body(), dict(part.split("=") for part in request.headers["agentkit-signature"].split(","))
    signed = hmac.new(SECRET, parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signed, parts["v1"]) or abs(time.time() - int(parts["t"])) > 300:
        raise HTTPException(401, "not signed by AgentKit")
    asked = await request.json()
    return run(asked, request.headers["idempotency-key"]) if asked["kind"] == "tool" else step(asked)


def step(asked):
    last = asked["messages"][-1]
    if last["role"] == "tool":
        return {"answer": f"{last['content']} You have bought {len(asked['state']['bought'])}."}
    bought = (asked["state"] or {}).get("bought", [])
    call = {"name": "buy", "arguments": {"article": last["content"]}, "traits": {"needs_approval": True}}
    return {"tool_calls": [call], "state": {"bought": bought}}


def run(asked, key):
    article = asked["call"]["arguments"]["article"]
    result = paid.setdefault(key, f"Paid for {article}.")
    return {"result": result, "patch": [{"op": "add", "path": "/bought/-", "value": article}]}
