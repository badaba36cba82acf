"""Pieces of a report as HTML: tables, settings, trees. All text is escaped here; nothing a model wrote is markup.

Knows nothing about the page they stand in.
"""

import html
from collections.abc import Sequence

import msgspec

from tsd.config.toml import dump
from tsd.observe.printable import printable
from tsd.report.examples import Example, Examples
from tsd.report.figures import Table
from tsd.report.run import RunReport
from tsd.report.tree import children, chosen_path, figures, outcome
from tsd.search import NodeRecord, TreeRecord

MAX_NODES = 300
"""Nodes of one tree that are shown, the most visited: a page with many is slow to open."""


def text(raw: str) -> str:
    """As it is to be seen, whatever it holds; a newline stays one."""
    return html.escape(printable(raw, keep="\n"))


def table(shown: Table, names: Sequence[str]) -> str:
    """With a head of the runs' names; nothing where it has no rows."""
    if not shown.rows:
        return ""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{text(label)}</th>{"".join(f"<td>{text(cell)}</td>" for cell in cells)}</tr>\n'
        for label, cells in shown.rows
    )
    return (
        f'<section><h2>{text(shown.title)}</h2><div class="wide"><table><thead><tr><td></td>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div></section>\n"
    )


def configuration(run: RunReport) -> str:
    """All settings of a run, folded."""
    toml = dump(msgspec.to_builtins(run.config))
    return f"<details><summary>all settings of {text(run.name)}</summary><pre>{text(toml)}</pre></details>\n"


def flagged(run: RunReport) -> str:
    """What a run found wrong with itself."""
    lines = "".join(f"<li>{text(line)}</li>" for line in run.flagged)
    return f"<h3>{text(run.name)}</h3>" + (f"<ul>{lines}</ul>\n" if lines else "<p>nothing</p>\n")


def examples(name: str, shown: Examples) -> str:
    """A run's trees before and after training, or why there are none."""
    if shown.left_out:
        return f"<h3>{text(name)}</h3><p>Left out: {text(shown.left_out)}</p>\n"
    return f"<h3>{text(name)}</h3>" + "".join(map(_example, shown.found))


def _example(one: Example) -> str:
    after = _tree("after", one.after) if one.after else "<div><h4>after</h4><p>no checkpoint yet</p></div>"
    title = f"<p><code>{text(one.problem)}</code></p>"
    return f'<article>{title}<div class="pair">{_tree("before", one.before)}{after}</div></article>\n'


def _tree(when: str, tree: TreeRecord) -> str:
    path = chosen_path(tree.nodes)
    kept, below = _kept(tree, path), children(tree.nodes)
    steps = "".join(f"<li>{_line(tree.nodes[i])}</li>" for i in path[1:])
    sums = f"{tree.num_simulations} simulations, {len(tree.nodes)} nodes, {tree.num_generated} tokens"
    return (
        f"<div><h4>{when}: {text(outcome(tree.nodes[path[-1]])) or 'no answer'}</h4><ol>{steps}</ol>"
        f"<details><summary>the whole tree: {sums}</summary>{_below(tree.nodes, 0, below, kept, set(path))}"
        "</details></div>"
    )


def _kept(tree: TreeRecord, path: Sequence[int]) -> set[int]:
    """The most visited nodes, with all above them: a node's parents come first and have no fewer visits."""
    order = sorted(range(len(tree.nodes)), key=lambda i: (-tree.nodes[i].visits, i))
    return {*order[:MAX_NODES], *path}


def _below(
    nodes: Sequence[NodeRecord], parent: int, below: Sequence[Sequence[int]], kept: set[int], path: set[int]
) -> str:
    """What follows a node, each with what follows it; open along the chosen path."""
    parts = []
    for i in sorted(below[parent], key=lambda i: (i not in path, -nodes[i].visits, -nodes[i].prior)):
        if i in kept and below[i]:
            opened = " open" if i in path else ""
            inner = _below(nodes, i, below, kept, path)
            parts.append(f"<li><details{opened}><summary>{_line(nodes[i], i in path)}</summary>{inner}</details></li>")
        elif i in kept:
            parts.append(f'<li class="leaf">{_line(nodes[i], i in path)}</li>')
    if hidden := sum(i not in kept for i in below[parent]):
        parts.append(f'<li class="leaf">{hidden} more</li>')
    return f'<ul class="tree">{"".join(parts)}</ul>'


def _line(node: NodeRecord, chosen: bool = False) -> str:
    step = text(node.text.strip().replace("\n", " ⏎ ")) or "&nbsp;"
    ended = f' <b class="end">{text(outcome(node))}</b>' if outcome(node) else ""
    mark = "★ " if chosen else ""
    return f'{mark}<code>{step}</code> <span class="number">{figures(node)}</span>{ended}'
