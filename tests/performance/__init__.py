"""What the harness costs and what it saves, against its peers: ``make perf``. Not collected by ``make test``."""
