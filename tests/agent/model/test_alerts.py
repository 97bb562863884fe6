from kaywatch_agent.model.alerts import dedup_key, fingerprint


def test_a_fingerprint_is_that_of_an_alertmanager() -> None:
    assert fingerprint({"node": "n1", "alertname": "X"}) == "9a93410fb0d90c73"


def test_dedup_keys_differ_for_labels_that_join_to_the_same_text() -> None:
    keys = {
        dedup_key("", "r", {"a": "b", "c": "d"}),
        dedup_key("", "r", {"a": "bc", "": "d"}),
        dedup_key("", "ra", {"b": "c", "d": ""}),
        dedup_key("x", "r", {"a": "b", "c": "d"}),
    }
    assert len(keys) == 4
    assert dedup_key("", "r", {"c": "d", "a": "b"}) in keys
