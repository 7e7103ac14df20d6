"""Reads a resource another way than a load does, and compares it with its table: for those who do not take our word.

Shares no code with `reading`, `rows` and `loading`: a check that is built on the loader's own logic can only agree with it.
"""

from rmm_assets.audit.report import Audit
from rmm_assets.audit.run import audit, unreadable

__all__ = ["Audit", "audit", "unreadable"]
