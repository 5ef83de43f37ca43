"""The sums behind the colours."""

from itertools import combinations

import numpy as np
import pytest

from mashbill.report import palette
from mashbill.report.palette import DARK, LIGHT

SCHEMES = pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
# Machado, Oliveira and Fernandes (2009), severity 1, on linear light.
SIGHT = {
    "common": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def oklab(colour, sight):
    c = np.array(palette.channels(colour))
    linear = np.clip(np.array(sight) @ np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4), 0, 1)
    cone = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    lab = [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099],
           [0.0259040371, 0.7827717662, -0.808675766]]  # fmt: skip
    return np.array(lab) @ np.cbrt(np.array(cone) @ linear)


def test_contrast_of_black_and_white() -> None:
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert palette.contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)
    assert palette.contrast("#ffffff", "#777777") == palette.contrast("#777777", "#ffffff")


@SCHEMES
def test_text_is_readable(scheme) -> None:
    for paper in (scheme.paper, scheme.wash):
        assert palette.contrast(scheme.ink, paper) >= 7
        for colour in (scheme.muted, scheme.good, scheme.bad):
            assert palette.contrast(colour, paper) >= 4.5


@SCHEMES
def test_text_on_the_strongest_tint_is_readable(scheme) -> None:
    for colour in (*scheme.teachers, scheme.heat):
        assert palette.contrast(scheme.ink, palette.mix(colour, scheme.paper, palette.TINT_LIMIT)) >= 4.5


@SCHEMES
def test_marks_stand_out_from_the_paper(scheme) -> None:
    assert len(scheme.teachers) >= 8
    for colour in scheme.teachers:
        assert palette.contrast(colour, scheme.paper) >= 3


@SCHEMES
@pytest.mark.parametrize("sight", SIGHT)
def test_teachers_stay_apart_in_every_sight(scheme, sight) -> None:
    places = [oklab(colour, SIGHT[sight]) for colour in scheme.teachers]
    least = min(float(np.linalg.norm(a - b)) for a, b in combinations(places, 2))
    assert least > (0.09 if sight == "common" else 0.05)
    first = min(float(np.linalg.norm(a - b)) for a, b in combinations(places[:5], 2))
    assert first > 0.08


def test_colour_and_shape_together_are_unique() -> None:
    pairs = {(index % palette.N_COLOURS, palette.mark(index)) for index in range(72)}
    assert len(pairs) == 72
    assert len(set(palette.MARKS)) == len(palette.MARKS)


def test_mix_is_that_of_css() -> None:
    assert palette.mix("#000000", "#ffffff", 50) == "#808080"
    assert palette.mix("#2d5fc4", "#ffffff", 0) == "#ffffff"


def test_css_variables_name_every_colour() -> None:
    text = palette.css_variables(LIGHT)
    assert text.count("--t") == len(LIGHT.teachers)
    assert "--paper:#ffffff" in text
