"""lm-eval's results, with what it cannot know: pooled rates of groups, intervals, and what the judge did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from realign_plugin.evaluation.assessment import HIGHER_IS_BETTER
from realign_plugin.evaluation.metrics.kappa import Kappa
from realign_plugin.evaluation.metrics.rates import NOT_AVAILABLE, Z95, Counted, NotAvailable, describe, pooled
from realign_plugin.evaluation.session import session

METRICS = tuple(HIGHER_IS_BETTER["harmful"])


def complete(found: dict[str, Any]) -> dict[str, Any]:
    """Pool our metrics over each group, add intervals and the judge's record, and write N/A as text.

    Args:
        found: What ``simple_evaluate`` returns; changed in place.

    Returns:
        The same object.
    """
    tasks: dict[str, dict[str, Any]] = found.get("results", {})
    subtasks: dict[str, list[str]] = found.get("group_subtasks", {})
    directions: dict[str, dict[str, bool]] = found.get("higher_is_better", {})
    ours = {name for name, row in tasks.items() if any(_is_ours(value) for value in row.values())}
    if not ours:
        return found
    for group in subtasks:
        members = leaves(group, subtasks)
        if members and all(member in ours for member in members):
            for table in (tasks, found.get("groups", {})):
                if group in table:
                    pool(table[group], {member: tasks[member] for member in members}, directions)
    kappas = {name: value for name in ours for value in tasks[name].values() if isinstance(value, Kappa)}
    record: dict[str, Any] = {}
    for table in (tasks, found.get("groups", {})):
        for name, row in table.items():
            for key, value in list(row.items()):
                described = describe(value)
                if described is None:
                    continue
                record.setdefault(name, {})[key.partition(",")[0]] = described
                metric, _, filter_name = key.partition(",")
                row[f"{metric}_stderr,{filter_name}"] = _stderr(value)
                if "not_available" in described:
                    row[key] = NOT_AVAILABLE
    current = session()
    found["realign"] = {"intervals": record}
    if current is not None:
        found["realign"]["judge"] = current.report(kappas, found.get("samples") or {})
        found["realign"]["references"] = current.references
    return found


def _is_ours(value: Any) -> bool:
    return isinstance(value, (Counted, NotAvailable))


def leaves(name: str, subtasks: Mapping[str, Sequence[str]]) -> list[str]:
    """Tasks below a group, or the task itself.

    Args:
        name: Of the group or task.
        subtasks: What each group consists of.
    """
    if name not in subtasks:
        return [name]
    return [leaf for child in subtasks[name] for leaf in leaves(child, subtasks)]


def pool(
    row: dict[str, Any], members: Mapping[str, Mapping[str, Any]], directions: Mapping[str, Mapping[str, bool]]
) -> None:
    """Pool the metrics that all members have; not one that is good in some and bad in others, as refusals are.

    Args:
        row: A group's; changed in place.
        members: Rows of its tasks.
        directions: Of each task, whether more of a metric is better.
    """
    for metric in METRICS:
        keys = [[key for key in member if key.partition(",")[0] == metric] for member in members.values()]
        better = {directions.get(name, {}).get(metric) for name in members}
        if all(keys) and len(better) == 1:
            row[keys[0][0]] = pooled([member[names[0]] for member, names in zip(members.values(), keys, strict=True)])


def _stderr(value: Any) -> float | str:
    """Half of the 95 % interval's width, by 1.96; lm-eval's table shows it behind a ±."""
    if isinstance(value, Counted) and value.undefined is None:
        low, high = value.interval
        return (high - low) / (2 * Z95)
    return NOT_AVAILABLE
