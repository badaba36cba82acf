"""A run's life, from the launcher's side: who starts, watches, restarts and ends its processes, and what it leaves.

launch       what was asked for -> a run, or one line that says why not
plan         who runs where, with how much memory
supervisor   the phases: evaluate, train, evaluate; `processes` starts and ends children, `guardian` outlives it
child        what every process of a run does at its own start and end; `identity`, who it is to the others
rundir       a run's directory; `books`, what became of every trajectory
"""
