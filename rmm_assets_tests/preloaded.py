"""Has imported the libraries and this package, for the fork server of `commands`."""

from __future__ import annotations

from rmm_assets_tests.preloading import LIBRARIES, OURS, preload

preload((*LIBRARIES, *OURS))
