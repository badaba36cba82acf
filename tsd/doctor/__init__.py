"""What would go wrong, or went wrong.

machine, parity, diagnosis   `tsd doctor`: the machine, and the engine against the trainer
bugreport                    `tsd bugreport`: what an issue about a run should hold
soak, audit                  `tsd soak`: a run under faults, and whether anything was lost, used twice or wrong
"""
