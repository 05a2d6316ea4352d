"""The canaries of gateway and launcher: the same labels, so that a service that is idle embeds them once."""

from __future__ import annotations

import clipsr_gateway._server.health as gateway
import clipsr_serving.launcher._triton.probe as launcher


def test_both_ask_for_the_same_labels():
    assert [label.decode() for label in launcher.CANARY_LABELS] == list(gateway.CANARY_LABELS)
