"""Is dspex what dspy is? Cases made by the real dspy, run through the public API."""
