import pytest
from beamfleet_bundles import topics
from beamfleet_bundles.errors import BundleError


def test_topics_read_back_as_they_were_written() -> None:
    assert topics.up("gw-1", "main", "state") == "beamfleet/v1/gw-1/main/up/state"
    for kind in topics.UP_KINDS:
        assert topics.parse(topics.up("gw-1", "main", kind)) == ("gw-1", "main", "up", kind)
    for kind in topics.DOWN_KINDS:
        assert topics.parse(topics.down("gw-1", "main", kind)) == ("gw-1", "main", "down", kind)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "beamfleet/v1/gw-1/main/up",
        "beamfleet/v1/gw-1/main/up/state/x",
        "beamfleet/v2/gw-1/main/up/state",
        "beamfleet/v1/gw-1/main/up/desired",
        "beamfleet/v1/gw-1/main/down/state",
        "beamfleet/v1/gw-1/main/sideways/state",
        "beamfleet/v1/+/main/up/state",
        "beamfleet/v1/#/main/up/state",
        "beamfleet/v1/_server/main/up/state",
        topics.EPOCH,
        "beamfleet/v1/gw-1//up/state",
    ],
)
def test_what_is_no_topic_of_a_device_is_refused(topic: str) -> None:
    with pytest.raises(BundleError) as error:
        topics.parse(topic)
    assert error.value.code.startswith("name.")


def test_a_device_cannot_be_named_so_that_its_topic_is_anothers() -> None:
    for device in ("a/b", "+", "#", "a/main/up/state"):
        with pytest.raises(BundleError):
            topics.up(device, "main", "state")
