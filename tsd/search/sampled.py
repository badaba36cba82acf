"""Whole responses sampled from a tree's root, without search: what the baselines learn from."""

from tsd.config import Method, SampleConfig
from tsd.protocols import Engine
from tsd.search.harvest import Trie, lone
from tsd.search.tree import Tree


async def sample_paths(tree: Tree, engine: Engine, method: Method, config: SampleConfig) -> list[Trie]:
    """`cispo`: every sample of a group. `best-of-n`: the best of them, of equals the likeliest under the policy."""
    num_samples = config.group_size if method == "cispo" else config.best_of
    steps = await engine.sample(tree.prompt, num_samples, tree.config.max_path_tokens)
    tree.num_generated += sum(len(step.tokens) for step in steps)
    paths = [lone(step, tree.grade(step.tokens)) for step in steps]
    tree.num_solutions = sum(path.grade.exact for path in paths)
    if method == "cispo":
        return paths
    return [max(paths, key=lambda path: (path.grade.reward, sum(path.steps[0].logprobs)))]
