"""What strangers may send us, as data: one list for every service that downloads and opens pictures.

`HOSTILE_URLS` are refused without a connection being made. `HOSTILE_RESPONSES` and `HOSTILE_IMAGES` are
played by a `HostileServer`, whose origin the service under test must trust (it is on loopback); everything
but the rules about ports and addresses still applies to a trusted origin. Each case names the error code it
must lead to. Tests import this with `tests/` on the path.
"""

from hostile.images import HOSTILE_IMAGES, HostileImage, photo
from hostile.responses import HOSTILE_RESPONSES, HostileResponse
from hostile.server import HostileServer
from hostile.urls import HOSTILE_URLS, HostileUrl

__all__ = [
    "HOSTILE_IMAGES",
    "HOSTILE_RESPONSES",
    "HOSTILE_URLS",
    "HostileImage",
    "HostileResponse",
    "HostileServer",
    "HostileUrl",
    "photo",
]
