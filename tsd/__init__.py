"""tsd: tree-search distillation for language models.

Read the code in data order: problem (`tasks`), tree (`search`), trajectory (`types`), batch and update (`learn`),
weights (`transport`), engine (`engine`).
"""

__version__ = "0.1.0"
