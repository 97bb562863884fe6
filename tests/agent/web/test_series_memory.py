"""Results that depend on the series only are computed again when series are added."""

from __future__ import annotations

from kaywatch_agent.web.series_memory import SeriesMemory


def test_a_result_is_computed_once_for_a_number_of_series() -> None:
    memory, computed = SeriesMemory(), []

    def read(key: str, series: int) -> int:
        def compute() -> int:
            computed.append((key, series))
            return series

        return memory.get(key, series, compute)

    assert [read("rows", n) for n in (5, 5, 7, 7)] == [5, 5, 7, 7]
    assert [read("labels", 7), read("rows", 7)] == [7, 7]
    assert computed == [("rows", 5), ("rows", 7), ("labels", 7)]
