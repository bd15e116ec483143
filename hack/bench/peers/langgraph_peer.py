"""LangGraph as a peer: a fan-out by Send, and a node that goes back to itself; each step is saved.

Durability `sync`: the checkpoint of a step is on disk before the next one begins. A fan-out is one
step for LangGraph: the writes of its tasks are saved as they end, its checkpoint after all of them.
"""

import argparse
import json
import operator
import sqlite3
import statistics
import time
from importlib.metadata import version
from itertools import pairwise
from typing import Annotated, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send


class Fan(TypedDict):
    count: int
    done: Annotated[int, operator.add]


def fan_graph() -> StateGraph:
    graph = StateGraph(Fan)
    graph.add_node("spread", lambda _: {})
    graph.add_node("noop", lambda _: {"done": 1})
    graph.add_edge(START, "spread")
    graph.add_conditional_edges(
        "spread", lambda state: [Send("noop", {}) for _ in range(state["count"])], ["noop"]
    )
    graph.add_edge("noop", END)
    return graph


class Loop(TypedDict):
    left: int


TIMES: list[float] = []


def again(state: Loop) -> Loop:
    TIMES.append(time.perf_counter())
    return {"left": state["left"] - 1}


def loop_graph() -> StateGraph:
    graph = StateGraph(Loop)
    graph.add_node("noop", again)
    graph.add_edge(START, "noop")
    graph.add_conditional_edges("noop", lambda state: "noop" if state["left"] else END)
    return graph


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--chain", type=int, required=True)
    parser.add_argument("--folder", required=True)
    options = parser.parse_args()
    # SqliteSaver sets WAL itself; synchronous stays FULL, the library's default.
    saver = SqliteSaver(
        sqlite3.connect(f"{options.folder}/langgraph.sqlite", check_same_thread=False)
    )
    fan = fan_graph().compile(checkpointer=saver)
    loop = loop_graph().compile(checkpointer=saver)

    def config(thread: str) -> dict[str, object]:
        limit = options.chain + 10
        return {"configurable": {"thread_id": thread}, "recursion_limit": limit}

    fan.invoke({"count": 100, "done": 0}, config("warm"), durability="sync")
    began, cpu = time.perf_counter(), time.process_time()
    ended = fan.invoke({"count": options.steps, "done": 0}, config("fan"), durability="sync")
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert ended["done"] == options.steps
    TIMES.clear()
    loop.invoke({"left": options.chain}, config("loop"), durability="sync")
    taken = sorted(after - before for before, after in pairwise(TIMES))
    figures = {
        "version": version("langgraph"),
        "settings": "SqliteSaver (WAL, synchronous=FULL), durability=sync, Send and a loop",
        "steps": options.steps,
        "steps_per_second": round(options.steps / seconds, 1),
        "cpu_ms_per_step": round(cpu / options.steps * 1000, 3),
        "chain_p50_ms": round(statistics.median(taken) * 1000, 3),
        "chain_p99_ms": round(taken[int(len(taken) * 0.99)] * 1000, 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
