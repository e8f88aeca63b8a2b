import time

import torch

from rmonet_d2.benchmark.timing import Stopwatch, side_by_side


def test_side_by_side_takes_turns_and_counts():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = side_by_side(functions, repeats=4, warmup=1, turn=2)
    assert all(len(timing.seconds) == 4 for timing in timings.values())
    # One warm-up each; then turns of one untimed call and two timed ones.
    assert "".join(calls) == "ab" + 2 * ("aaa" + "bbb")


def test_a_timing_is_the_median_of_its_functions_calls(monkeypatch):
    """Of a clock that only the functions move, so that nothing beside the test counts."""
    now = [0.0]
    monkeypatch.setattr("rmonet_d2.benchmark.timing.time.perf_counter", lambda: now[0])
    durations = iter([9.0, 9.0, 9.0, 1.0, 2.0, 60.0])

    def slow():
        now[0] += next(durations)

    def fast():
        now[0] += 0.5

    timings = side_by_side({"slow": slow, "fast": fast}, repeats=3)
    # Two warm-ups and the first call of a turn do not count; the outlier moves no median.
    assert timings["slow"].seconds == [1.0, 2.0, 60.0]
    assert (timings["slow"].median, timings["fast"].median) == (2.0, 0.5)


def test_stopwatch_wraps_a_method_and_keeps_its_result():
    class Adder:
        def add(self, a, b=1):
            time.sleep(0.002)
            return a + b

    adder, watch = Adder(), Stopwatch(torch.device("cpu"))
    watch.wrap(adder, "add", "adding")
    assert [adder.add(1), adder.add(1, b=4)] == [2, 5]
    assert len(watch.seconds["adding"]) == 2
    assert watch.medians()["adding"] >= 0.002
