"""What takes minutes: `tests/run tests/long`. A file is named as the one in ../ whose subject it shares."""
