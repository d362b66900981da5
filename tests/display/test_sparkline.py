"""Heights from the lowest to the highest of what is shown."""

from fedpeft.display.sparkline import WIDTH, draw_sparkline


def test_heights_are_the_numbers():
    assert draw_sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert draw_sparkline([0.3, 0.3]) == "▁▁"
    assert draw_sparkline([]) == ""
    assert draw_sparkline([float("nan"), 0.1, float("inf"), 0.2]) == " ▁ █"
    assert draw_sparkline([9.0, *[float(i) for i in range(WIDTH)]]) == "▁▁▂▂▃▃▄▄▅▅▆▆▇▇██"  # the first is not shown
