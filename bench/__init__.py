"""Which fine-tuning keeps what a self-supervised ViT knows? Methods, probes, search and leaderboard.

Importing this package is free of torch, Ray and MLflow on purpose, so that `--help` and every
complaint about bad input come at once. Import what is dear where it is used.
"""

__version__ = "0.1.0"
