"""A saved tree for people: drawn in a terminal, or as one HTML page that needs no network.

Only reads what `tsd solve --tree` wrote. Knows nothing about engines, runs and how trees grow.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.text import Text
from rich.tree import Tree as Drawing

from tsd.observe.printable import printable
from tsd.search import NodeRecord, TreeRecord
from tsd.search.node import Status

PAGE = Path(__file__).parent / "tree.html"
DATA = "/*DATA*/"
"""Where the page has its tree."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the page has it."""

    parent: int
    text: str
    visits: int
    q: float | None
    """Q, or an end's reward; None where search has not been."""
    prior: float
    value: float | None
    logprob: float
    """Logprob of the whole step under the policy that sampled it."""
    version: int
    born: int
    """Expansions before the one that made it."""
    status: str
    reward: float | None
    solved: bool
    chosen: bool


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """All that the page shows."""

    title: str
    prompt: str
    num_simulations: int
    num_expansions: int
    num_generated: int
    nodes: tuple[Shown, ...]


def chosen_path(nodes: Sequence[NodeRecord]) -> list[int]:
    """From the root to the best graded end, of equal ones the likeliest; where there is none, along the most visits."""
    ends = [i for i, node in enumerate(nodes) if node.grade is not None and node.status is Status.TERMINAL]
    if ends:
        return max(
            (path_to(nodes, i) for i in ends),
            key=lambda path: (_reward(nodes[path[-1]]), sum(_logprob(nodes[j]) for j in path)),
        )
    path = [0]
    below = children(nodes)
    while below[path[-1]]:
        path.append(max(below[path[-1]], key=lambda i: (nodes[i].visits, nodes[i].q)))
    return path


def path_to(nodes: Sequence[NodeRecord], i: int) -> list[int]:
    """The root first."""
    path = [i]
    while (i := nodes[i].parent) >= 0:
        path.append(i)
    return path[::-1]


def children(nodes: Sequence[NodeRecord]) -> list[list[int]]:
    """The places of each node's children."""
    found: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        if node.parent >= 0:
            found[node.parent].append(i)
    return found


def _q(node: NodeRecord) -> float | None:
    if node.visits:
        return node.q
    return None if node.grade is None else node.grade.reward


def _logprob(node: NodeRecord) -> float:
    return sum(node.step.logprobs) if node.step else 0.0


def _reward(node: NodeRecord) -> float:
    return -1.0 if node.grade is None else node.grade.reward


def draw(tree: TreeRecord, max_nodes: int) -> Drawing:
    """The most visited nodes and the chosen path, as a terminal shows them."""
    nodes, chosen = tree.nodes, set(chosen_path(tree.nodes))
    wanted = set(chosen)
    for i in sorted(range(len(nodes)), key=lambda i: (-nodes[i].visits, nodes[i].born, i)):
        if len(wanted) >= max_nodes:
            break
        wanted.update(path_to(nodes, i))
    below = children(nodes)
    top = Text(f"{printable(tree.prompt_text).strip()}  ", style="bold")
    top.append(figures(nodes[0]), style="not bold")
    drawing = Drawing(top)
    stack = [(0, drawing)]
    while stack:
        parent, branch = stack.pop()
        for i in sorted(below[parent], key=lambda i: (i not in chosen, -nodes[i].visits, -nodes[i].prior)):
            if i in wanted:
                stack.append((i, branch.add(_line(nodes[i], i in chosen))))
        if hidden := sum(i not in wanted for i in below[parent]):
            branch.add(Text(f"{hidden} more", style="dim"))
    return drawing


def _line(node: NodeRecord, chosen: bool) -> Text:
    line = Text("* " if chosen else "", style="bold" if chosen else "")
    line.append(printable(node.text.strip().replace("\n", " ")))
    line.append(f"  {figures(node)}", style="not bold dim")
    if ended := outcome(node):
        line.append(f"  {ended}", style="bold")
    return line


def outcome(node: NodeRecord) -> str:
    """How the path ends at this node; empty where it goes on."""
    if node.grade is not None:
        return "solved" if node.grade.exact else f"reward {node.grade.reward:+.2f}"
    return "" if node.status is Status.OPEN else node.status.value


def figures(node: NodeRecord) -> str:
    """N, Q, P and V of a node, those that are known."""
    known = {"Q": _q(node), "P": node.prior, "V": node.value}
    return "  ".join([f"N {node.visits}", *(f"{key} {x:+.2f}" for key, x in known.items() if x is not None)])


def page(tree: TreeRecord, title: str) -> str:
    """One HTML document with the tree in it. What models wrote is data there, never markup."""
    chosen = set(chosen_path(tree.nodes))
    shown = Page(
        title=title,
        prompt=tree.prompt_text,
        num_simulations=tree.num_simulations,
        num_expansions=tree.num_expansions,
        num_generated=tree.num_generated,
        nodes=tuple(_shown(node, i in chosen) for i, node in enumerate(tree.nodes)),
    )
    return PAGE.read_text(encoding="utf-8").replace(DATA, script(shown))


def script(value: object) -> str:
    """JSON inside a script element: no text may end the element, or open a comment in it."""
    return msgspec.json.encode(value).decode().replace("<", "\\u003c")


def _shown(node: NodeRecord, chosen: bool) -> Shown:
    return Shown(
        parent=node.parent,
        text=node.text,
        visits=node.visits,
        q=_q(node),
        prior=node.prior,
        value=node.value,
        logprob=_logprob(node),
        version=node.step.version if node.step else 0,
        born=node.born,
        status=node.status.value,
        reward=None if node.grade is None else node.grade.reward,
        solved=node.grade is not None and node.grade.exact,
        chosen=chosen,
    )
