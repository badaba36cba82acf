"""`tsd report`: what runs came to, side by side, in a terminal, as JSON, or as one page with curves and trees.

run        files of a run directory -> its figures
figures    several runs' figures -> tables of text
terminal   tables -> what a terminal shows
tree       a searched tree, drawn in a terminal or as a page: `tsd tree`
export     a run's model as a directory with a card: `tsd export`
examples   a run's models -> trees of a few held-out problems
markup, page   all of it -> one HTML document, with `report.html`
"""
