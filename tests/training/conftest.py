"""A training that is stopped again and again and resumed, as a cluster does to it."""

import pytest

from kdscope import api
from kdscope.training.stop import Interrupted, StopSignal


@pytest.fixture
def with_stops(monkeypatch):
    """(begin, place, every) -> the run and how often it was stopped: after every so many steps of all its trainings."""

    def until_done(begin, place, every):
        asked = [0]

        def agreed(self, fabric, step):
            asked[0] += 1
            return asked[0] % every == 0

        monkeypatch.setattr(StopSignal, "agreed", agreed)
        stops = 0
        while True:
            try:
                run = api.resume(place) if stops else begin(place)
            except Interrupted:
                stops += 1
            else:
                assert stops == asked[0] // every
                return run, stops

    return until_done
