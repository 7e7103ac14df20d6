"""Re-reads a resource by a different route than a load and compares it with its table, as an independent check.

It shares no code with `reading`, `rows` and `loading`, because a check built on the loader's logic would repeat its mistakes.
"""

from rmm_assets.audit.report import Audit, worst_first
from rmm_assets.audit.run import audit, unreadable

__all__ = ["Audit", "audit", "unreadable", "worst_first"]
