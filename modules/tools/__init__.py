"""Tools: functions that a model may have called, and what happens when it does."""
