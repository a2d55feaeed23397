#!/usr/bin/env python3
"""Session server: answers conform's questions about one GGUF file, all in one process; see docs/protocol.md.

    conform parity MODEL.gguf --driver jsonlines --runtime examples/session_server.py

The Llama in numpy_llama.py stands for your runtime. The first line must name a Python that has numpy and gguf.
"""

import base64
import json
import random
import sys
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from numpy_llama import Llama


def main(path: str) -> None:
    """One line for each line, as long as there are any."""
    model = cache(lambda: Llama(path))  # loaded for the first question that needs it
    for line in sys.stdin:
        q = json.loads(line)
        if q["op"] == "describe":
            reply: dict[str, Any] = {"session": 1, "generator": "unknown", "observes": ["ids", "hidden"]}
        elif q["op"] == "tokenize":
            reply = {"ids": model().encode(q["text"])}
        elif q["op"] in {"answer", "step"}:
            reply = generate(model(), q)
        else:
            reply = {"unsupported": True}
        print(json.dumps({"id": q.get("id"), **reply}), flush=True)


def generate(model: Llama, q: dict[str, Any]) -> dict[str, Any]:
    """The text, and what was computed at the step that is watched, if one is."""
    ids, text, forced = model.encode(q["prompt"]), q["prompt"].encode(), q["forced"]
    if len(ids) + q["max_tokens"] - 1 > model.context:
        return {"error": f"more positions than the context of {model.context}"}
    generator, watched = random.Random(q["seed"]), {}
    for step in range(q["max_tokens"]):
        token = forced[step] if step < len(forced) else None
        if token is None or step == q.get("step"):
            hidden = model.hidden(ids)[-1]
            logits = model.logits(hidden)
            if step == q.get("step"):
                watched = {
                    "position": len(ids) - 1,
                    "token": ids[-1],
                    "layers": model.layers,
                    "hidden": floats(hidden),
                    "argmax": int(logits.argmax()),
                    "argmax_logit": floats(logits.max()),
                }
        ids.append(choose(logits, q, generator) if token is None else token)
        text += model.decode(ids[-1])
    return {"text": base64.b64encode(text).decode(), "tokens": q["max_tokens"], **watched}


def choose(logits: NDArray[np.float64], q: dict[str, Any], generator: random.Random) -> int:
    """The next token; top_k before top_p, each of which may be off."""
    if q["temperature"] <= 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: q["top_k"] or None]
    weights = np.exp((logits[order] - logits[order[0]]) / q["temperature"])
    reached = np.cumsum(weights / weights.sum()) >= q["top_p"]
    kept = int(reached.argmax()) + 1 if q["top_p"] < 1 else len(order)
    return int(generator.choices(order[:kept], weights[:kept])[0])


def floats(values: ArrayLike) -> str:
    """Little-endian float32 as base64."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


main(sys.argv[1])
