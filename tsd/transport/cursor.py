"""Where one sender's trajectories stand on their way to the trainer: what is sent next, what may go from the spool.

Decides, and neither waits nor moves bytes.
"""

from dataclasses import dataclass

STALLED = 3
"""Times in a row that the trainer says it waits for what was sent: that went to one that has died."""


@dataclass(slots=True)
class Cursor:
    """saved <= used <= received <= next <= appended, each a count of serials from 0.

    appended: in the spool. next: sent, or on the way. received: with the trainer. used: learned from. saved: in a
    checkpoint, and let go of here, so it never falls; the others fall when a trainer goes back to a checkpoint.
    """

    appended: int = 0
    saved: int = 0
    used: int = 0
    received: int = 0
    next: int | None = None
    """None until the trainer has said where it is: nothing is sent before."""
    num_stalled: int = 0

    @property
    def due(self) -> bool:
        """Whether there is one to send."""
        return self.next is not None and self.next < self.appended

    def send(self, serial: int) -> bool:
        """Whether that one is still the next; it then counts as sent."""
        if self.next != serial:
            return False
        self.next = serial + 1
        return True

    def hear(self, saved: int, used: int, received: int, *, anew: bool, waiting: bool) -> bool:
        """Takes in where the trainer is; False, with nothing changed, where it cannot be.

        `anew` sends all again that it has not received, and so does a trainer that goes on `waiting`.
        """
        if not 0 <= saved <= used <= received <= self.appended:
            return False
        self.saved = max(self.saved, saved)
        self.used, self.received = max(self.saved, used), max(self.saved, received)
        self.num_stalled = self.num_stalled + 1 if waiting and self.next is not None and self.next > received else 0
        if anew or self.num_stalled == STALLED:
            self.next, self.num_stalled = self.received, 0
        elif self.next is not None:
            self.next = max(self.next, self.received)
        return True
