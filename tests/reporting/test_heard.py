"""What of a long recording a page takes."""

import numpy as np

from conformer_jax.errors import UserError
from conformer_jax.models.features import FeatureSpec
from conformer_jax.reporting import heard
from conformer_jax.reporting.player import Event


def test_what_fits_is_heard_whole_and_else_the_surest_of_every_label():
    events = [Event(t, t + 2, "often", 0.9) for t in range(0, 4000, 10)]
    events += [Event(2005, 2006, "rare", 0.4)]
    assert heard.stretches(events, 4000, 4000) == [(0, 4000)]
    spans = heard.stretches(events, 4000, 100)
    assert any(a <= 2005 and b >= 2006 for a, b in spans)
    assert 90 < sum(b - a for a, b in spans) <= 100
    assert spans == sorted(spans)
    assert heard.stretches([], 4000, 100) == [(0, 30)]
    # One that is too long for what is left does not keep out those that are not.
    uneven = [Event(10, 40, "long", 0.9), Event(100, 128, "too long", 0.8), Event(500, 501, "c", 1)]
    assert heard.stretches(uneven, 4000, 40) == [(9, 39), (499, 502)]
    assert heard.stretches(uneven[:1], 4000, 20) == [(9, 29)]
    assert heard.stretches(events, 4000, 0) == []


def test_recordings_share_the_page():
    assert heard.shares([10, 20]) == [10, 20]
    assert sum(heard.shares([36000, 5])) <= heard.SOUND_S
    many = heard.shares([600] * 300)
    assert sum(many) <= heard.SOUND_S
    assert many[0] == 20
    assert many[-1] == 0


def test_names_and_labels_are_text_and_a_page_says_what_it_leaves_out():
    evil = "</script><img src=x onerror=alert(1)>'\""
    spec = FeatureSpec()

    def read(start, end):
        return np.zeros(round((end - start) * 16000), np.float32)

    def gone(start, end):
        raise UserError("it is gone")

    events = [Event(3, 4, evil, 0.5)]
    whole = heard.recording(evil, events, 5.0, 5.0, spec, read)
    parts = heard.recording("long", events, 5000.0, 40.0, spec, read)
    lost = heard.recording("lost", events, 8.0, 8.0, spec, gone)
    page = heard.recordings(evil, [whole, parts, lost], 7)
    assert "<img src=x" not in page
    assert "</script><" not in page.replace("</script></body>", "").replace("</script><script>", "")
    assert page.count("<audio") == 2
    assert "Of 1:23:20.0 this page holds 0:03.0 of sound" in page
    assert "It cannot be played: it is gone." in page
    assert "7 more recordings" in page
