"""Figures, each measured against a peer or the bare limit in the same run."""
