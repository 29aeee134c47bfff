"""What the package promises before anything runs."""
