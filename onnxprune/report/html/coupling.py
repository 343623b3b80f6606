"""What leaves with one unit: the tensors, axes and nodes of every group."""

from __future__ import annotations

from onnxprune import quantities as numbers
from onnxprune.jobs.results.couplings import CouplingRow, NodeRow, SliceRow
from onnxprune.jobs.results.schema import GroupRow, Report
from onnxprune.report.html.markup import TIMES, Content, Markup, code, join, table, tag

_ROLES = {"writes": "makes it", "scales": "scales it", "reads": "reads it"}


def section(run: Report, key: str, most: int) -> Markup:
    """One foldable table per group; the script shows one at a time, drawn.

    Args:
        run: that says what leaves with a unit.
        key: of the section.
        most: groups, and slices of each twice the fair share.
    """
    each = max(2, 2 * most // max(len(run.groups), 1))
    rows = {row.group: row for row in run.couplings}
    groups = [
        _group(row, rows[row.name], f"{key}-{k}", each)
        for k, row in enumerate(run.groups[:most])
        if row.name in rows
    ]
    return join(
        tag(
            "p",
            "Indices that must leave together are one unit. Choose a group to see every tensor "
            "that loses something with one of its units, along which axis, and the nodes that "
            "use it.",
        ),
        tag("div", groups, class_="couplings"),
    )


def _group(group: GroupRow, row: CouplingRow, key: str, most: int) -> Markup:
    rest = row.more + max(len(row.slices) - most, 0)
    removal = "exact: removing equals masking" if group.exact else f"inexact: {group.reason}"
    costs = (
        f"{numbers.plural(group.units, 'unit')} of kind {group.kind}; one costs "
        f"{numbers.quantity(group.params)} parameters, {numbers.size(group.bytes)} and "
        f"{numbers.quantity(group.macs)} MACs; {removal}."
    )
    more = f"{numbers.plural(rest, 'more slice')} of this group left out here."
    return tag(
        "details",
        tag("summary", code(group.name)),
        tag("p", costs),
        table(
            ("tensor", "shape", "loses>", "role", "nodes"),
            [_slice(each) for each in row.slices[:most]],
            caption=f"What leaves with one unit of {group.name}",
        )
        if row.slices
        else None,
        tag("p", more, class_="soft") if rest else None,
        id=key,
        data_group=group.name,
    )


def _slice(row: SliceRow) -> tuple[Content, ...]:
    sizes: list[Content] = []
    for k, size in enumerate(row.shape):
        sizes += [f" {TIMES} "] if k else []
        sizes.append(tag("b", str(size)) if k == row.axis else str(size))
    return (
        code(row.tensor),
        sizes,
        numbers.plural(row.rows, "row"),
        _ROLES.get(row.role, row.role),
        [_node(each) for each in row.nodes],
    )


def _node(row: NodeRow) -> Content:
    return tag("span", tag("span", f"{row.op} ", class_="op"), code(row.name), class_="node")
