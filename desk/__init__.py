"""What the verbs of scripts/ share: everything at this desk that is not the science, from Kaggle's API to HTML pages.

A module imports only from those below it; tests/test_structure.py has the order. `salt` and `flattener` know nothing of
this package, and no notebook may import it.
"""
