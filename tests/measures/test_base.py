import pytest

from kdscope import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.base import INVARIANCES, Card


def card(**fields):
    return Card(**{"name": "x", "title": "", "unit": "", "range": (0, 1), "direction": "none", "citation": ""} | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"direction": "high"}, "unknown direction 'high' in the card of measure 'x'; nearest: higher"),
        ({"invariances": ("gague",)}, "unknown invariance 'gague'"),
        ({"resampling": "bootstraps"}, "unknown resampling 'bootstraps'"),
        ({"needs": ("label",)}, "unknown need 'label'"),
    ],
)
def test_a_card_says_known_things(fields, message):
    with pytest.raises(KDScopeError, match=message):
        card(**fields)


def test_every_card_is_under_its_name_and_no_gauge_changes_its_measure():
    for name in MEASURES:
        assert MEASURES[name].card.name == name
        if name != "threshold-iou":  # the one that is also put to cam-sum, a map that depends on the gauge
            assert "gauge" in MEASURES[name].card.invariances
        assert set(MEASURES[name].card.invariances) <= set(INVARIANCES)
        assert next(iter(MEASURES[name].definitions)) == "kdscope"


def test_an_unknown_measure_has_near_ones():
    with pytest.raises(KDScopeError, match="unknown measure 'agrement'; nearest: agreement"):
        MEASURES["agrement"]
