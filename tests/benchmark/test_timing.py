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


def test_the_slower_function_takes_longer():
    timings = side_by_side(
        {"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.001)}, repeats=3
    )
    assert timings["slow"].median > 2 * timings["fast"].median


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
