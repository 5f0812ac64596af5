"""What takes minutes: `tests/run tests/long`. A file of a name that is in ../, too, shares its subject and fixtures."""
