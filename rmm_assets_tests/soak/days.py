"""What happens to a run: a good day, or one of the bad ones."""

from __future__ import annotations

import random
from typing import NamedTuple

from rmm_assets.simulator import Faults

# What the server does, by name; some are repaired by another request, some make the run red.
FAULTS: dict[str, list[Faults]] = {
    "503 now and then": [Faults(status=503, every=3)],
    "429 with a wait": [Faults(status=429, retry_after=0.05, every=4)],
    "connections dropped": [Faults(drop=True, every=4)],
    "bodies cut": [Faults(cut=True, every=5)],
    "slow": [Faults(delay=0.3)],
    "rows repeated": [Faults(duplicate_every=100)],
    "pages clamped": [Faults(clamp=30)],
    "500 for good": [Faults(status=500, text="internal error", echo_key=True)],
    "HTML for good": [Faults(resource="devices", html=True)],
    "a body cut for good": [Faults(resource="tickets", truncated=True)],
    "no rows under data": [Faults(no_data=True)],
    "an empty fleet": [Faults(empty=True)],
    "a total too high": [Faults(total_off=5)],
    "the same page again": [Faults(resource="devices", same_page=True)],
    "a redirect elsewhere": [Faults(redirect="http://127.0.0.1:9", echo_key=True)],
    "200 with an error and the key": [Faults(status=200, text="quota exceeded", echo_key=True)],
}


class Day(NamedTuple):
    """What happens to one run.

    Attributes:
        name: What it is, for the report.
        bad: Whether anything does.
        faults: The server's.
        kill_at: When the process is killed, as a share of the time that runs usually take; None if it is not.
        wrong_key: Whether the key is another one, which the server repeats in its answer.
        largest_file: Size in KB beyond which no file can be written, as on a full disk; None if there is no limit.
    """

    name: str
    bad: bool = True
    faults: tuple[Faults, ...] = ()
    kill_at: float | None = None
    wrong_key: bool = False
    largest_file: int | None = None


def day(rng: random.Random, *, bad: bool) -> Day:
    """Returns a good day, or any bad one."""
    if not bad:
        return Day("a good day", bad=False)
    match rng.choice(("kill", "kill", "fault", "fault", "wrong key", "full disk")):
        case "kill":
            # A slower server makes the moments of reading as long as the others.
            return Day("kill -9", faults=(Faults(delay=rng.choice((0, 0.2))),), kill_at=rng.uniform(0.1, 1.1))
        case "fault":
            name = rng.choice(list(FAULTS))
            return Day(name, faults=tuple(FAULTS[name]))
        case "wrong key":
            return Day("a wrong key", faults=(Faults(status=401, text="unauthorized", echo_key=True),), wrong_key=True)
    # From working files of a few KB to the databases: sizes of any order are equally likely.
    return Day("a full disk", largest_file=int(2 ** rng.uniform(1, 13)))
