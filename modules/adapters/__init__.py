"""Adapters: signature, demos and inputs to a request; an answer to typed outputs."""
