"""The color scale of all renderings: cividis, which people with color blindness read like others, and which prints well."""

from __future__ import annotations

RGB = tuple[int, int, int]

CIVIDIS: tuple[RGB, ...] = (
    (0, 34, 78),
    (26, 56, 111),
    (65, 77, 107),
    (94, 99, 111),
    (124, 123, 120),
    (155, 147, 116),
    (188, 173, 106),
    (222, 200, 87),
    (254, 232, 56),
)
"""Evenly spaced colors of the scale (Nuñez, Anderton and Renslow 2018), from 0 on; linear in between."""


def colour(share: float) -> RGB:
    """The color of a value, given as its share of the scale in [0, 1]; values outside get the colors of the ends."""
    place = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    below = min(int(place), len(CIVIDIS) - 2)
    return tuple(  # type: ignore[return-value]
        round(a + (b - a) * (place - below)) for a, b in zip(CIVIDIS[below], CIVIDIS[below + 1], strict=True)
    )


def ink(background: RGB) -> RGB:
    """Black or white, whichever is more legible on a background."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else (255, 255, 255)


def hexadecimal(rgb: RGB) -> str:
    """A color in the form "#00224e"."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)
