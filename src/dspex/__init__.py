"""dspex: supervised actors for LLM programs."""
