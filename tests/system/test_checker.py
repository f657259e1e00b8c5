"""The checker itself: histories that are linearizable pass, others are found."""
import time

from lib.history import check_key


def event(kind, value, begin, end, outcome="ok", precondition=None):
    if outcome == "unknown":
        end = float("inf")
    return {"client": "t", "key": "k", "kind": kind, "value": value, "begin": begin, "end": end,
            "outcome": outcome, "precondition": precondition}


def test_sequential_history_passes():
    assert check_key([event("get", None, 0, 1), event("put", "1", 2, 3), event("get", "1", 4, 5),
                      event("delete", None, 6, 7), event("get", None, 8, 9)]) is None


def test_lost_write_is_found():
    assert check_key([event("put", "1", 0, 1), event("put", "2", 2, 3), event("get", "1", 4, 5)])


def test_undone_deletion_is_found():
    assert check_key([event("put", "1", 0, 1), event("delete", None, 2, 3), event("get", "1", 4, 5)])


def test_stale_read_between_two_readers_is_found():
    assert check_key([event("put", "1", 0, 1), event("put", "2", 2, 9), event("get", "2", 3, 4),
                      event("get", "1", 5, 6)])


def test_unknown_write_may_come_late_or_never():
    assert check_key([event("put", "1", 0, 1), event("put", "2", 2, 0, "unknown"),
                      event("get", "1", 3, 4), event("get", "2", 5, 6)]) is None
    assert check_key([event("put", "1", 0, 1), event("put", "2", 2, 0, "unknown"),
                      event("get", "1", 3, 4)]) is None
    assert check_key([event("put", "1", 0, 1), event("put", "2", 2, 0, "unknown"),
                      event("get", "2", 3, 4), event("get", "1", 5, 6)])


def test_two_winners_of_if_none_match_are_found():
    assert check_key([event("put", "1", 0, 2, precondition="absent"),
                      event("put", "2", 1, 3, precondition="absent")])
    assert check_key([event("put", "1", 0, 2, precondition="absent"),
                      event("put", "2", 1, 3, "fail", precondition="absent")]) is None


def test_unknown_write_that_nobody_read_may_fail_a_condition():
    def history(*unknown):
        return check_key([event("put", "1", 0, 1), event("delete", None, 2, 3),
                          *(event("put", f"x{at}", at, 0, "unknown") for at in unknown),
                          event("put", "2", 5, 7, "fail", precondition="absent"), event("delete", None, 8, 9),
                          event("put", "3", 10, 11, "fail", precondition="absent"), event("delete", None, 12, 13),
                          event("get", None, 14, 15)])
    assert history(4, 6) is None
    assert history(9.5, 4, 6) is None
    assert history(4, 9.5) is None
    assert history()
    assert history(4)  # one write isn't two
    assert history(7.5, 9.5)  # begun after the first failure was answered


def test_long_outage_is_checked_quickly():
    """Hundreds of writes that may have happened, and failed conditions among them."""
    events = [event("put", f"x{n}", n / 10, 0, "unknown") for n in range(300)]
    for n in range(60):
        events += [event("put", f"c{n}", n + 0.1, n + 0.3, "fail", precondition="absent"),
                   event("delete", None, n + 0.4, n + 0.6),
                   event("put", f"w{n}", n + 0.5, n + 0.8), event("delete", None, n + 0.85, n + 0.9),
                   event("get", None, n + 0.95, n + 0.97)]
    assert check_key(events) is None
    began = time.process_time()
    assert check_key(events + [event("get", "never", 70, 71)])
    assert time.process_time() - began < 20


def simulate(seed, clients=6, steps=400, lose=0.0, stale=0.0, absent=0.0):
    """A history of a register with random answers lost; stale: chance that a read answers from the past; absent: that a
    write has the condition that nothing is there."""
    import random
    rng = random.Random(seed)
    now, events, state, past = 0.0, [], None, [None]
    busy = [0.0] * clients
    for n in range(steps):
        c = min(range(clients), key=lambda i: busy[i])
        begin = busy[c] + rng.random() * 0.01
        now = max(now, begin) + rng.random() * 0.001  # the moment at which it takes effect
        end = now + rng.random() * 0.01
        kind = rng.choice(["get", "get", "put", "put", "delete"])
        value, outcome, condition = None, "ok", None
        if kind == "get":
            value = rng.choice(past[:-1]) if rng.random() < stale and len(past) > 1 else state
        else:
            value = f"v{n}" if kind == "put" else None
            condition = "absent" if kind == "put" and rng.random() < absent else None
            refused = condition is not None and state is not None
            if rng.random() < lose:
                outcome = "unknown"
            elif refused:
                outcome = "fail"
            if not refused and (outcome == "ok" or rng.random() < 0.5):
                state = value
                past.append(state)
        busy[c] = end
        events.append(event(kind, value, begin, end, outcome, condition))
    return events


def test_long_history_with_lost_answers_passes():
    for seed in range(5):
        assert check_key(simulate(seed, lose=0.1)) is None


def test_long_history_with_conditions_and_lost_answers_passes():
    for seed in range(20):
        assert check_key(simulate(seed, lose=0.2, absent=0.7)) is None


def test_long_history_with_a_stale_read_is_found():
    found = sum(check_key(simulate(seed, lose=0.02, stale=0.05)) is not None for seed in range(10))
    assert found == 10
