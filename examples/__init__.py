"""Programs to read and to run; each runs in CI."""
