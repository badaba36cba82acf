"""A sender's cursor against a trainer that loses frames, saves, dies and goes back to its last checkpoint."""

import random

import pytest

from tsd.transport.cursor import STALLED, Cursor


class Trainer:
    """Takes serials in order, as `Inbox` does."""

    def __init__(self) -> None:
        self.saved = self.used = self.received = self.life = 0

    def take(self, serial: int) -> None:
        self.received += serial == self.received

    def tell(self, cursor: Cursor, *, anew: bool = False, waiting: bool = False) -> bool:
        return cursor.hear(self.saved, self.used, self.received, anew=anew, waiting=waiting)


def check(cursor: Cursor) -> None:
    assert cursor.next is not None
    assert cursor.saved <= cursor.used <= cursor.received <= cursor.next <= cursor.appended


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_every_serial_arrives_and_none_that_was_let_go_of_is_asked_for(seed: int) -> None:
    rng, cursor, trainer, under_way = random.Random(seed), Cursor(), Trainer(), list[int]()
    trainer.tell(cursor, anew=True)
    for _ in range(2_000):
        match rng.randrange(7):
            case 0:
                cursor.appended += 1
            case 1 if cursor.due and cursor.next is not None:
                under_way.append(cursor.next)
                assert cursor.send(cursor.next)
            case 2 if under_way:
                trainer.take(under_way.pop(0))
            case 3 if under_way and rng.random() < 0.2:
                under_way.pop(rng.randrange(len(under_way)))  # lost on the way
            case 4:
                trainer.used = trainer.received
                trainer.saved = rng.choice((trainer.saved, trainer.used))
            case 5:
                trainer.tell(cursor, waiting=not under_way)
            case 6 if rng.random() < 0.05:
                trainer.used = trainer.received = trainer.saved  # killed, and started again
                trainer.tell(cursor, anew=True)
        check(cursor)
    under_way.clear()
    while trainer.received < cursor.appended:
        while cursor.due and cursor.next is not None:
            serial = cursor.next
            cursor.send(serial)
            trainer.take(serial)
        trainer.tell(cursor, waiting=True)
    check(cursor)


def test_what_cannot_be_is_not_believed() -> None:
    cursor = Cursor(appended=4)
    for saved, used, received in ((0, 0, 5), (2, 1, 3), (0, 3, 2), (-1, 0, 0)):
        assert not cursor.hear(saved, used, received, anew=True, waiting=False)
    assert cursor == Cursor(appended=4)


def test_a_serial_that_the_trainer_went_back_from_is_not_counted_as_sent() -> None:
    cursor = Cursor(appended=4, next=3, received=2)
    assert cursor.hear(0, 0, 1, anew=True, waiting=False)
    assert not cursor.send(3)
    assert cursor.send(1)
    assert cursor.next == 2


def test_only_a_trainer_that_goes_on_waiting_gets_again_what_was_sent() -> None:
    cursor = Cursor(appended=4, next=4, received=2)
    for _ in range(STALLED - 1):
        cursor.hear(0, 0, 2, anew=False, waiting=True)
    cursor.hear(0, 0, 2, anew=False, waiting=False)
    assert not cursor.due
    for _ in range(STALLED):
        cursor.hear(0, 0, 2, anew=False, waiting=True)
    assert cursor.next == 2


def test_what_was_saved_is_not_sent_again_to_a_trainer_that_went_back_further() -> None:
    cursor = Cursor(appended=9)
    cursor.hear(6, 7, 8, anew=True, waiting=False)
    assert cursor.hear(2, 2, 3, anew=True, waiting=False)
    assert (cursor.saved, cursor.next) == (6, 6)
