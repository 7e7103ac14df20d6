"""Reads a resource in another way than a load does and compares it with its table, as an independent check.

It shares no code with `reading`, `rows` and `loading`, as a check built on the loader's own logic could only agree with it.
"""

from rmm_assets.audit.report import Audit
from rmm_assets.audit.run import audit, unreadable

__all__ = ["Audit", "audit", "unreadable"]
