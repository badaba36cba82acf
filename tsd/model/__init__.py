"""The language model with its value head, and its text codec: what engines and trainer share.

Import from the modules: `files` alone needs no torch.
"""
