"""The engine that runs programs."""
