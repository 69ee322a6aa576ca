"""Flows in two queues: parents in `render`, children in `leaves`."""

from __future__ import annotations

from typing import Any

from worker_bench import Bench

from sandq.client import drive
from sandq.errands import family as of_family
from sandq.errands import flow as of_flow
from sandq.errands.family import FlowTree
from sandq.errands.flow import FlowJob

Tree = FlowJob | dict[str, Any]


def add(bench: Bench, *trees: Tree) -> list[FlowTree]:
    """Add flows; what stands for them now."""
    return drive(of_flow.add_many(bench.keys.prefix, trees), bench.run)


def parent(*children: Tree, job_id: str = "P", **options: Any) -> FlowJob:
    """A job in `render` that waits for others."""
    return FlowJob("parent", queue="render", children=children, job_id=job_id, **options)


def leaf(job_id: str, **options: Any) -> FlowJob:
    """A job in `leaves`."""
    return FlowJob("leaf", queue="leaves", job_id=job_id, **options)


def states(bench: Bench, job_id: str = "P") -> dict[str, str]:
    """The state of every job of a flow."""
    tree = drive(of_family.tree(bench.keys, job_id), bench.run)
    return {node.job.id: str(node.state) for node in tree.walk()}
