"""Names what stands at no path."""

from typing import Any

# Nothing stands at a path, which says nothing; what is null there is None.
ABSENT: Any = object()
