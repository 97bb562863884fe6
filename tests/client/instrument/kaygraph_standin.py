"""A substitute for KayGraph: the classes and control flow of its documentation.

KayGraph can't be installed from every registry, and this has none of its code. It has
what matters to instrumentation, including the traps: hooks that only plain nodes call,
default ids made of addresses, a retry counter that all items share, a pool of threads,
and a graph that replaces the loop.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class BaseNode:
    def __init__(self, node_id: str | None = None) -> None:
        self.params: dict[str, Any] = {}
        self.successors: dict[str, BaseNode] = {}
        self.node_id = node_id or f"{type(self).__name__}_{id(self)}"
        self.logger = logging.getLogger(type(self).__name__)
        self._execution_context: dict[str, Any] = {}

    def set_params(self, params: dict[str, Any]) -> None:
        if not isinstance(params, dict):
            raise TypeError("params must be a dict")
        self.params = dict(params)

    def next(self, node: Any, action: str = "default") -> Any:
        self.successors[action] = node
        return node

    def __rshift__(self, other: Any) -> Any:
        return self.next(other)

    def __sub__(self, action: str) -> Transition:
        return Transition(self, action)

    def set_context(self, key: str, value: Any) -> None:
        self._execution_context[key] = value

    def get_context(self, key: str, default: Any = None) -> Any:
        return self._execution_context.get(key, default)

    def before_prep(self, shared: Any) -> None: ...

    def after_exec(self, shared: Any, prep_res: Any, exec_res: Any) -> None: ...

    def on_error(self, shared: Any, error: Exception) -> bool:
        return False

    def prep(self, shared: Any) -> Any: ...

    def exec(self, prep_res: Any) -> Any: ...

    def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any: ...

    def _exec(self, prep_res: Any) -> Any:
        return self.exec(prep_res)

    def _run(self, shared: Any) -> Any:
        self.logger.info("Node %s: Starting execution", self.node_id)
        self._execution_context["start_time"] = time.time()
        try:
            self.before_prep(shared)
            prepared = self.prep(shared)
            result = self._exec(prepared)
            self.after_exec(shared, prepared, result)
            return self.post(shared, prepared, result)
        except Exception as error:
            if self.on_error(shared, error):
                self.logger.info("Node %s: Error suppressed", self.node_id)
                return None
            raise

    def run(self, shared: Any) -> Any:
        if self.successors:
            warnings.warn("Node won't run successors. Use Graph.", stacklevel=2)
        return self._run(shared)


class Transition:
    def __init__(self, source: BaseNode, action: str) -> None:
        self.source = source
        self.action = action

    def __rshift__(self, target: Any) -> Any:
        return self.source.next(target, self.action)


class Node(BaseNode):
    def __init__(
        self, max_retries: int = 1, wait: float = 0, node_id: str | None = None
    ) -> None:
        super().__init__(node_id)
        self.max_retries = max_retries
        self.wait = wait
        self.cur_retry = 0

    def exec_fallback(self, prep_res: Any, exc: Exception) -> Any:
        raise exc

    def _exec(self, prep_res: Any) -> Any:
        # The counter is the node's, and so shared by all items of a parallel batch.
        self.cur_retry = 0
        while self.cur_retry < self.max_retries:
            try:
                return self.exec(prep_res)
            except Exception as error:
                self.logger.warning("Execution failed: %s", error)
                self.cur_retry += 1
                if self.cur_retry >= self.max_retries:
                    return self.exec_fallback(prep_res, error)
                if self.wait > 0:
                    time.sleep(self.wait)
        raise RuntimeError("Execution loop finished unexpectedly.")


class BatchNode(Node):
    def _exec(self, items: Any) -> Any:
        return [super(BatchNode, self)._exec(item) for item in (items or [])]


class ParallelBatchNode(BatchNode):
    def __init__(self, max_workers: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_workers = max_workers

    def _exec(self, items: Any) -> Any:
        one = super(BatchNode, self)._exec
        with ThreadPoolExecutor(self.max_workers) as pool:
            return list(pool.map(one, items or []))


class ValidatedNode(Node):
    def validate_input(self, prep_res: Any) -> Any:
        return prep_res

    def validate_output(self, exec_res: Any) -> Any:
        return exec_res

    def _exec(self, prep_res: Any) -> Any:
        checked = self.validate_input(prep_res)
        return self.validate_output(super()._exec(checked))


class MetricsNode(Node):
    def __init__(self, collect_metrics: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.collect_metrics = collect_metrics
        self.metrics: dict[str, Any] = {"times": [], "ok": 0, "failed": 0, "retries": 0}

    def _run(self, shared: Any) -> Any:
        started = time.time()
        try:
            result = super()._run(shared)
        except Exception:
            self.metrics["failed"] += 1
            raise
        else:
            self.metrics["ok"] += 1
            return result
        finally:
            self.metrics["times"].append(time.time() - started)
            self.metrics["retries"] += self.cur_retry

    def get_stats(self) -> dict[str, Any]:
        times, ok = self.metrics["times"], self.metrics["ok"]
        if not times:
            return {"total_executions": 0}
        return {
            "total_executions": len(times),
            "success_rate": ok / len(times),
            "avg_execution_time": sum(times) / len(times),
            "min_execution_time": min(times),
            "max_execution_time": max(times),
            "total_retries": self.metrics["retries"],
        }


class AsyncNode(Node):
    async def prep_async(self, shared: Any) -> Any: ...

    async def exec_async(self, prep_res: Any) -> Any: ...

    async def exec_fallback_async(self, prep_res: Any, exc: Exception) -> Any:
        raise exc

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any: ...

    async def _exec(self, prep_res: Any) -> Any:
        self.cur_retry = 0
        while self.cur_retry < self.max_retries:
            try:
                return await self.exec_async(prep_res)
            except Exception as error:
                self.cur_retry += 1
                if self.cur_retry >= self.max_retries:
                    return await self.exec_fallback_async(prep_res, error)
                if self.wait > 0:
                    await asyncio.sleep(self.wait)
        raise RuntimeError("Execution loop finished unexpectedly.")

    async def _run_async(self, shared: Any) -> Any:
        prepared = await self.prep_async(shared)
        result = await self._exec(prepared)
        return await self.post_async(shared, prepared, result)

    async def run_async(self, shared: Any) -> Any:
        return await self._run_async(shared)

    def _run(self, shared: Any) -> Any:
        raise RuntimeError("Use run_async.")


class AsyncBatchNode(AsyncNode, BatchNode):
    async def _exec(self, items: Any) -> Any:
        return [await super(AsyncBatchNode, self)._exec(item) for item in items]


class AsyncParallelBatchNode(AsyncNode, BatchNode):
    async def _exec(self, items: Any) -> Any:
        one = super()._exec
        return await asyncio.gather(*(one(item) for item in items))


class Graph(BaseNode):
    def __init__(self, start: Any = None) -> None:
        super().__init__()  # no id can be given: it is always a default one
        self.start_node = start

    def start(self, node: Any) -> Any:
        self.start_node = node
        return node

    def get_next_node(self, curr: Any, action: Any) -> Any:
        successor = curr.successors.get(action or "default")
        if not successor and curr.successors:
            text = f"Graph ends: '{action}' not found in {list(curr.successors)}"
            warnings.warn(text, stacklevel=1)
            self.logger.warning("Graph execution terminated: %s", text)
        return successor

    def _orch(self, shared: Any, params: dict[str, Any] | None = None) -> Any:
        current = copy.copy(self.start_node)
        value, action = params or {**self.params}, None
        while current:
            current.set_params(value)
            action = current._run(shared)
            current = copy.copy(self.get_next_node(current, action))
        return action

    def _run(self, shared: Any) -> Any:
        prepared = self.prep(shared)
        action = self._orch(shared)
        return self.post(shared, prepared, action)

    def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        return exec_res


class BatchGraph(Graph):
    def _run(self, shared: Any) -> Any:
        batch = self.prep(shared) or []
        for params in batch:
            self._orch(shared, {**self.params, **params})
        return self.post(shared, batch, None)


class AsyncGraph(Graph, AsyncNode):
    def __init__(self, start: Any = None) -> None:
        AsyncNode.__init__(self)
        self.start_node = start

    async def _orch_async(
        self, shared: Any, params: dict[str, Any] | None = None
    ) -> Any:
        current = copy.copy(self.start_node)
        value, action = params or {**self.params}, None
        while current:
            current.set_params(value)
            if isinstance(current, AsyncNode):
                action = await current._run_async(shared)
            else:
                action = current._run(shared)
            current = copy.copy(self.get_next_node(current, action))
        return action

    async def _run_async(self, shared: Any) -> Any:
        prepared = await self.prep_async(shared)
        action = await self._orch_async(shared)
        return await self.post_async(shared, prepared, action)

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        return exec_res


class AsyncBatchGraph(AsyncGraph, BatchGraph):
    async def _run_async(self, shared: Any) -> Any:
        batch = await self.prep_async(shared) or []
        for params in batch:
            await self._orch_async(shared, {**self.params, **params})
        return await self.post_async(shared, batch, None)


class AsyncParallelBatchGraph(AsyncGraph, BatchGraph):
    async def _run_async(self, shared: Any) -> Any:
        batch = await self.prep_async(shared) or []
        loops = (
            self._orch_async(shared, {**self.params, **params}) for params in batch
        )
        await asyncio.gather(*loops)
        return await self.post_async(shared, batch, None)


class SubGraphNode(BaseNode):
    def __init__(self, graph: Graph, node_id: str | None = None) -> None:
        super().__init__(node_id or f"subgraph_{id(graph)}")
        self.graph = graph

    def prep(self, shared: Any) -> Any:
        return copy.deepcopy(shared)

    def exec(self, prep_res: Any) -> Any:
        self.graph.run(prep_res)
        return prep_res

    def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        shared.update(exec_res)


class InteractiveGraph(Graph):
    def run_interactive(self, shared: Any, max_iterations: int = 3) -> Any:
        for _ in range(max_iterations):
            self.run(shared)
            for key in [key for key in shared if key.startswith("_")]:
                del shared[key]
            if shared.get("exit"):
                break
        return shared


class PersistentGraph(Graph):
    """Runs the wired nodes themselves, without `_orch` or `get_next_node`."""

    def __init__(self, start: Any = None) -> None:
        super().__init__(start)
        self.checkpoints: list[str] = []

    def _run(self, shared: Any) -> Any:
        current = self.start_node
        while current is not None:
            action = current._run(shared)
            self.checkpoints.append(json.dumps(shared))
            current = current.successors.get(action or "default")
        return shared
