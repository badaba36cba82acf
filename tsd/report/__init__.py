"""`tsd report`: what runs came to, side by side, in a terminal, as JSON, or as one page with curves and trees.

run        files of a run directory -> its figures
figures    several runs' figures -> tables of text
terminal   tables -> what a terminal shows
examples   a run's models -> trees of a few held-out problems
markup, page   all of it -> one HTML document, with `assets/report.html`
"""
