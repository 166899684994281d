"""Where trials run: the board that hands them out, the slots that train them, and the search that proposes them.

Ray is known in this room only, Ray Tune and Optuna in :mod:`bench.cluster.search` only.
"""
