"""Pictures of frames (PS3.18 sections 8.3.5 and 10.4.1.1.3 to .4): rendered frames, thumbnails.

From stored values to the picture, in this order: modality transform, VOI transform, inversion
(PS3.3 section C.11) or colour; scaling; overlays; the file. What is asked for small is decoded
small, from the resolution level that is just large enough.
"""

from raypacs.web.rendering.asked import (
    Viewport,
    Wanted,
    Window,
    parse_quality,
    parse_viewport,
    parse_window,
)
from raypacs.web.rendering.render import Level, render, render_level

__all__ = [
    "Level",
    "Viewport",
    "Wanted",
    "Window",
    "parse_quality",
    "parse_viewport",
    "parse_window",
    "render",
    "render_level",
]
