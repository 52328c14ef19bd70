"""The parts of a store, put together."""

from collections.abc import Sequence
from typing import NamedTuple

from perdure.stores.postgres.address import Address
from perdure.stores.postgres.bell import Bell
from perdure.stores.postgres.claims import Claims
from perdure.stores.postgres.lease import Lease
from perdure.stores.postgres.reader import Reader
from perdure.stores.postgres.watchdog import Watchdog
from perdure.stores.postgres.writer import Writer


class Parts(NamedTuple):
    """What a store is made of; see `assembly`."""

    address: Address
    writer: Writer
    readers: Sequence[Reader]
    lease: Lease
    claims: Claims
    bell: Bell | None
    watchdog: Watchdog | None
    guarantee: str
