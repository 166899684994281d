"""Faults that are injected into running launches; ``python -m tests.faults`` runs them all (``make faults``)."""
