"""Processes and users have quotas, and their bytes are read in fair order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.ingest.access import Access, Refusal, group_number, user_number
from kaywatch_agent.ingest.config import IngestConfig
from kaywatch_agent.ingest.quotas import MAX_PROCESS_BYTES, Account, Quotas, QuotaUsage
from kaywatch_agent.settings.reader import section


class Someone:
    def __init__(self, uid: int, *gids: int, trusted: bool = False) -> None:
        self.uid = uid
        self.gids = frozenset(gids)
        self.trusted = trusted


@pytest.mark.parametrize(
    ("access", "peer", "admitted"),
    [
        (Access(), Someone(1000, 1000), True),
        (Access(uids=frozenset({1000})), Someone(1000, 5), True),
        (Access(uids=frozenset({1000})), Someone(1001, 1000), False),
        (Access(gids=frozenset({50})), Someone(1001, 1001, 50), True),
        (Access(gids=frozenset({50})), Someone(50, 1001), False),
        (Access(frozenset({1}), frozenset({2})), Someone(9, 2), True),
        (Access(frozenset({1}), frozenset({2})), Someone(9, 9), False),
        (Access(uids=frozenset({1000})), Someone(0, 0, trusted=True), True),
    ],
)
def test_allowed_users_and_root_may_push(
    access: Access, peer: Someone, admitted: bool
) -> None:
    assert access.admits(peer) is admitted


def test_users_and_groups_have_names_or_numbers() -> None:
    assert user_number("k", "root") == user_number("k", "0") == 0
    assert group_number("k", "root") == 0
    assert user_number("k", "4000000") == 4_000_000
    assert IngestConfig(allow_uids=("root", "7")).access.uids == {0, 7}


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (
            {"allow_uids": ["no such one"]},
            'allow_uids: unknown user "no such one"',
        ),
        ({"allow_gids": ["-1"]}, 'allow_gids: unknown group "-1"'),
        ({"allow_uids": ["4294967295"]}, "allow_uids: unknown user"),
        ({"connections_per_user": 0}, "connections_per_user = 0: expected at least 1"),
        (
            {"rate_per_process": "fast"},
            'rate_per_process: invalid size "fast"',
        ),
    ],
)
def test_an_invalid_setting_is_reported_with_its_key(
    keys: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        section(IngestConfig, keys, "ingest")


def test_a_process_and_a_user_have_so_many_connections() -> None:
    usage = QuotaUsage(Quotas(process_connections=2, user_connections=3, connections=4))
    assert [usage.enter(1, 1000) for _ in range(3)] == [
        None,
        None,
        Refusal.PROCESS_CONNECTIONS,
    ]
    assert usage.enter(2, 1000) is None
    assert usage.enter(3, 1000) is Refusal.USER_CONNECTIONS
    assert usage.enter(4, 1001) is None
    assert usage.enter(5, 1002) is Refusal.DESCRIPTORS
    usage.leave(1, 1000)
    assert usage.enter(3, 1000) is None


def test_unfinished_frames_are_bounded_by_process() -> None:
    usage = QuotaUsage(Quotas())
    usage.enter(1, 1000)
    usage.enter(2, 1000)
    assert usage.add_buffered(1, 1000, MAX_PROCESS_BYTES) is None
    assert usage.add_buffered(1, 1000, 1) is Refusal.MEMORY
    assert usage.add_buffered(2, 1000, 1) is None
    assert usage.add_buffered(1, 1000, -MAX_PROCESS_BYTES) is None
    assert usage.add_buffered(1, 1000, 1) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 1), st.booleans()), max_size=60
    )
)
def test_accounts_end_with_the_last_connection(
    steps: list[tuple[int, int, bool]],
) -> None:
    usage = QuotaUsage(Quotas(process_connections=3, user_connections=5, connections=7))
    inside: list[tuple[int, int]] = []
    for pid, user, enter in steps:
        if enter:
            if usage.enter(pid, user) is None:
                inside.append((pid, user))
        elif inside:
            usage.leave(*inside.pop())
    assert usage.connections == len(inside) <= 7
    while inside:
        usage.leave(*inside.pop())
    assert usage.connections == 0
    assert not usage._processes
    assert not usage._users


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 3)), max_size=50))
def test_over_any_time_no_more_is_read_than_the_rate_and_a_second_s_worth(
    reads: list[tuple[int, float]],
) -> None:
    account, now, taken = Account(), 100.0, 0
    account.updated = now - 1
    for size, later in reads:
        now += later
        pause = account.spend(size, 1000.0, now)
        taken += size
        now += pause
        assert taken <= 1000 * (now - 100.0) + 1000 + 1e-6 * taken
