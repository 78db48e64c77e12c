"""Faults on purpose: answers an overloaded API server gives, and pods that lose their node."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cluster.cluster import Pod


@dataclass(frozen=True)
class Call:
    """A request to the API server."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of the object that the request creates."""
        labels: Mapping[str, str] = self.body.get("metadata", {}).get("labels", {})
        return labels


@dataclass(frozen=True)
class Status:
    """The server answers with an error and does nothing."""

    code: int
    retry_after_seconds: int | None = None


@dataclass(frozen=True)
class Silence:
    """The server neither does anything nor answers, and closes the connection in the end."""

    seconds: float


@dataclass(frozen=True)
class LostAnswer:
    """The server does what it is asked, and the connection breaks before the answer."""


@dataclass
class ApiFault:
    """The first `times` calls that match meet the effect."""

    matches: Callable[[Call], bool]
    effect: Status | Silence | LostAnswer
    times: int = 1
    met: list[Call] = field(default_factory=list)

    def take(self, call: Call) -> bool:
        """Whether this call meets the effect."""
        if len(self.met) == self.times or not self.matches(call):
            return False
        self.met.append(call)
        return True


class Ending(Enum):
    """How a pod loses its node."""

    KILLED = "the machine is gone: SIGKILL, nothing is said to the process"
    EVICTED = "a spot machine is taken back: the pod is deleted, SIGTERM and its grace period"


@dataclass
class PodFault:
    """The first `times` running pods that match lose their node; no pod twice."""

    matches: Callable[["Pod"], bool]
    ending: Ending = Ending.KILLED
    times: int = 1
    met: list["Pod"] = field(default_factory=list)

    def take(self, pod: "Pod") -> bool:
        """Whether this pod loses its node now."""
        if len(self.met) == self.times or pod in self.met or not self.matches(pod):
            return False
        self.met.append(pod)
        return True
