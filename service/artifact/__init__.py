"""Artifacts: the contract between training and service, how they are fetched, rewritten, checked and kept."""
