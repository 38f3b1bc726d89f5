"""Time that a test makes, so that no outcome hangs on how busy the machine is."""

from __future__ import annotations

PLACES = tuple(
    f"marginkit.{place}.time"
    for place in (
        "measurement.tighten",
        "methods.exact",
        "methods.verify",
        "bounds.linear.hidden",
        "methods.branch_and_bound.at_radius",
        "methods.branch_and_bound.growing",
        "methods.branch_and_bound.anytime",
        "methods.branch_and_bound.best_first",
        "methods.branch_and_bound.milp",
    )
)


class Clock:
    """Each look at it takes a second; or none, where time is to stand still."""

    def __init__(self, tick: float = 1.0) -> None:
        self.now, self.tick = 0.0, tick

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now

    def replace(self, monkeypatch) -> Clock:
        """Wherever a limit is kept."""
        for place in PLACES:
            monkeypatch.setattr(place, self)
        return self
