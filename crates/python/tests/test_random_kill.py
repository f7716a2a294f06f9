"""Workers that are stopped and killed at random: the short form of bench/python/random_kill.py."""

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "bench" / "python"))
import random_kill  # noqa: E402


@pytest.mark.parametrize("url", ["postgres", "sqlite"], indirect=True)
def test_workers_that_die_and_sleep_fork_nothing_double_nothing_and_lose_nothing(url):
    seed = random.randrange(1000)
    counted = random_kill.run(url, seconds=5, threads=6, seed=seed)
    kinds = ["forks", "doubled", "lost", "failed"]
    assert [counted.get(kind, 0) for kind in kinds] == [0, 0, 0, 0], (seed, counted)
    assert counted["killed"] + counted["stopped"] > 3, counted
