"""Whole responses sampled from a tree's root, without search: what the baselines learn from."""

from tsd.config import Method, SampleConfig
from tsd.protocols import Engine
from tsd.search.harvest import Trie, lone
from tsd.search.tree import Tree


async def sample_paths(tree: Tree, engine: Engine, method: Method, config: SampleConfig) -> list[Trie]:
    """`cispo`: every sample of a group. `best-of-n`: the best of them, of equals the likeliest under the policy."""
    if method == "cispo":
        return await _group(tree, engine, config)
    paths = await _sample(tree, engine, config.best_of)
    return [max(paths, key=lambda path: (path.grade.reward, sum(path.steps[0].logprobs)))]


async def _group(tree: Tree, engine: Engine, config: SampleConfig) -> list[Trie]:
    """At once where nothing but its size ends it; else one sample after another, until one of its budgets is spent."""
    if not config.max_tokens and not config.solutions:
        return await _sample(tree, engine, config.group_size)
    paths: list[Trie] = []
    while (
        len(paths) < config.group_size
        and (not config.max_tokens or tree.num_generated < config.max_tokens)
        and (not config.solutions or tree.num_solutions < config.solutions)
    ):
        paths += await _sample(tree, engine, 1)
    return paths


async def _sample(tree: Tree, engine: Engine, num_samples: int) -> list[Trie]:
    steps = await engine.sample(tree.prompt, num_samples, tree.config.max_path_tokens)
    paths = [lone(step, tree.grade(step.tokens)) for step in steps]
    tree.num_generated += sum(len(step.tokens) for step in steps)
    tree.num_solutions += sum(path.grade.exact for path in paths)
    return paths
