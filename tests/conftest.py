"""
How all tests run: which examples hypothesis tries, and what the marker C{root} means.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.needs import needRoot

# No deadline anywhere: a busy machine is no reason to fail.  CI tries the same examples every time, so that a red build
# is about the change; at home each run looks somewhere else, and what it finds is kept in .hypothesis.
settings.register_profile("home", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "hunt", deadline=None, max_examples=20_000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "home"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked C{root} needs root, whatever else it asks for."""
    if item.get_closest_marker("root"):
        needRoot()
