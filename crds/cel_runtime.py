"""The CEL engine without the command line that its package imports with it.

That brings a terminal toolkit: 17 MiB and half a second in every process, for nothing used here.
"""

from __future__ import annotations

import sys
from types import ModuleType

sys.modules.setdefault("cel.cli", ModuleType("cel.cli"))

import cel  # noqa: E402  # after the line above
from cel.stdlib import EXTENSIONS  # noqa: E402  # after the line above

__all__ = ["EXTENSIONS", "cel"]
