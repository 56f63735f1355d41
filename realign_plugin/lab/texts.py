"""Text that any page can hold."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

UNWRITABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that neither HTML, SVG nor UTF-8 can hold, and JSON can."""


def _text(value: Any) -> Any:
    value = str(value) if isinstance(value, (int, float)) else value
    return UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_text)]
"""Text that any page can hold; a bare number is taken as its digits."""
