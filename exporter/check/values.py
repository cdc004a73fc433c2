"""What a proof says."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "skipped"]


@dataclass(frozen=True)
class Check:
    """A proof of a file: what it is called, how it went, and what was compared, found, or why it could not be run."""

    name: str
    status: Status
    detail: str

    def as_document(self) -> dict[str, object]:
        """The check in a report."""
        return {"name": self.name, "status": self.status, "detail": self.detail}
