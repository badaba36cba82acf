"""Small trees as records."""

from tsd.search import NodeRecord, TreeRecord
from tsd.search.node import Status
from tsd.types import Grade, Step

HOSTILE = '</script><script>document.title="run"</script><!--\x1b[2J[bold]'


def sampled(logprob: float) -> Step:
    return Step((2,), (logprob,), (0.0,), "step", 0)


def end(parent: int, reward: float, logprob: float, text: str = "<answer>1</answer>") -> NodeRecord:
    grade = Grade(reward, exact=reward == 1, well_formed=True)
    return NodeRecord(parent=parent, step=sampled(logprob), text=text, status=Status.TERMINAL, grade=grade, born=1)


def step(parent: int, visits: int, text: str = "<step>") -> NodeRecord:
    return NodeRecord(parent=parent, step=sampled(-0.5), text=text, visits=visits, q=0.25, prior=0.5)


def a_tree(*nodes: NodeRecord) -> TreeRecord:
    return TreeRecord(
        prompt=(1,),
        prompt_text="5 9 = 14",
        nodes=(NodeRecord(parent=-1, visits=9, value=0.5), *nodes),
        num_simulations=9,
        num_expansions=2,
        num_generated=30,
        solved=True,
    )
