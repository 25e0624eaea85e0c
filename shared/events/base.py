"""An event is a past fact with a version; an envelope is that fact on its way (CloudEvents 1.0)."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Event(BaseModel):
    """A fact that a service tells the others. Subclasses add the fields of the fact.

    `name` is `publisher.fact.vN`. `subject` is the ordering key: facts of one key arrive in the order in
    which they were committed. A `broadcast` fact concerns every key and goes once to each partition.
    A `personal` fact carries people's data, sealed; its publisher keeps it only as long as a topic does.
    Unknown fields are ignored, so that a publisher may add some.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: ClassVar[str]
    broadcast: ClassVar[bool] = False
    personal: ClassVar[bool] = False

    @property
    def subject(self) -> str:
        """The ordering key: a USCC, a person token, a data set, or `*` for a broadcast."""
        return "*" if self.broadcast else str(getattr(self, "uscc"))  # noqa: B009 - a field of most events


class Envelope(BaseModel):
    """A CloudEvents 1.0 envelope in structured JSON, as it lies on the bus.

    `correlationid` follows a request through the services until time takes over: what a clock does by itself
    carries an id of its own. `partition` is the bus partition that a
    broadcast was meant for, None where the key decides.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"] = "1.0"
    id: Annotated[str, Field(pattern=r"^[!-~]{1,36}$")]
    source: Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
    type: Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
    subject: Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
    time: datetime
    datacontenttype: str = "application/json"
    correlationid: Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
    partition: int | None = None
    data: dict[str, Any]
