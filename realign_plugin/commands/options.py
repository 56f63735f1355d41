"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another adapter or model that is in OUT.")]
