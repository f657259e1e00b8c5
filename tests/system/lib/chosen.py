"""Which cases of a test run."""
import os


def chosen(first, *others):
    """Of a test that takes long: FIRST in `make test`, all in `make soak`."""
    return [first, *others] if os.environ.get("NEF_SOAK") == "1" else [first]
