"""Histories of concurrent clients and the check that they are linearizable per object key.

An event is one request: key, client, kind (put, delete, get), value (what was written, or what a get
returned; None: absent), begin and end time, and outcome: ok, fail (certainly not done, for example 412) or
unknown (no answer: it may have happened at any time after its begin, or never).

The check is Wing and Gong's search with memory of visited (set of done operations, state), one key at a time.
A key's values are unique, so states are few. Unknown writes may be linearized at any point after their begin
or left out; unknown reads say nothing."""
import bisect
import threading
import time

INFINITE = float("inf")
UNREAD = "a value that nobody read"


class History:
    def __init__(self):
        self.lock = threading.Lock()
        self.events = []

    def begin(self):
        return time.monotonic()

    def add(self, client, key, kind, value, begin, outcome, precondition=None, note=None):
        event = {"client": client, "key": key, "kind": kind, "value": value, "begin": begin,
                 "end": time.monotonic() if outcome != "unknown" else INFINITE,
                 "outcome": outcome, "precondition": precondition, "note": note}
        with self.lock:
            self.events.append(event)

    def keys(self):
        keys = {}
        for e in self.events:
            keys.setdefault(e["key"], []).append(e)
        return keys

    def check(self):
        """None, or a text that names the key and its events that have no linearization."""
        for key, events in self.keys().items():
            bad = check_key(events)
            if bad:
                return f"key {key}: {bad}"
        return None


def apply(event, state):
    """State after EVENT, or the string 'no' if its answer is impossible in STATE."""
    kind, outcome = event["kind"], event["outcome"]
    if kind == "get":
        return state if event["value"] == state else "no"
    if kind == "put":
        if event["precondition"] == "absent":
            if outcome == "fail":
                return state if state is not None else "no"
            if outcome == "ok" and state is not None:
                return "no"
            if outcome == "unknown" and state is not None:
                return state
        return event["value"]
    return None  # delete


def is_unread(event, read):
    return event["outcome"] == "unknown" and event["kind"] == "put" and event["value"] not in read


def check_key(events):
    events = [e for e in events
              if not (e["kind"] == "get" and e["outcome"] != "ok")
              and not (e["outcome"] == "fail" and e["precondition"] is None)]
    events.sort(key=lambda e: e["begin"])
    read = {e["value"] for e in events if e["kind"] == "get"}
    # An unknown write of a value that nobody ever read shows only where it made a conditional write fail: there it is
    # taken from `unread`, which begun first goes first, since any of them will do. Deletes must stay.
    unread = [e["begin"] for e in events if is_unread(e, read)]
    events = [e for e in events if not is_unread(e, read)]
    n = len(events)
    definite = [e["outcome"] != "unknown" for e in events]
    # What is done: all definite events below `low`, and `extra` above it. An event begun after the earliest
    # end of those not done can't be next, so `extra` stays within the number of clients, and a state is small
    # however long the history is. `late`: unknown writes below `low` that may still happen. Of two states that
    # differ only in `late` and in how many of `unread` were taken, the one with more left can do all that the other
    # can, so the other isn't looked at.
    stack = [(0, frozenset(), frozenset(), 0, None)]
    seen = {}
    visited = 0
    deepest, left = -1, frozenset()
    while stack:
        low, extra, late, taken, state = stack.pop()
        while low < n and low in extra:
            extra = extra - {low}
            low += 1
        known = seen.setdefault((low, extra, state), [])
        if any(late <= other and taken >= fewer for other, fewer in known):
            continue
        known.append((late, taken))
        visited += 1
        if low > deepest:
            deepest, left = low, extra
        if low == n:
            return None
        if visited > 2000000:
            return "the search became too large; use fewer concurrent clients a key"
        for i in late:
            after = apply(events[i], state)
            if after != state and after != "no":
                stack.append((low, extra, late - {i}, taken, after))
        horizon = INFINITE
        candidates = []
        i = low
        while i < n and events[i]["begin"] <= horizon:
            if i not in extra:
                candidates.append(i)
                horizon = min(horizon, events[i]["end"])
            i += 1
        candidates = [i for i in reversed(candidates) if events[i]["begin"] <= horizon]
        if bisect.bisect_right(unread, horizon) > taken:  # pushed first: what nobody saw is the last thing to assume
            for i in candidates:
                if events[i]["outcome"] == "fail" and state is None:
                    stack.append((low, extra | {i}, late, taken + 1, UNREAD))
        for i in candidates:
            after = apply(events[i], state)
            if after != "no":
                stack.append((low, extra | {i}, late, taken, after))
        if not definite[low]:
            stack.append((low + 1, extra, late | {low}, taken, state))
    rest = [events[i] for i in range(max(deepest, 0), n) if i not in left]
    return f"no linearization of {n} events; the longest leaves {len(rest)}: " + \
        "; ".join(f"{e['client']} {e['kind']} {e['value']} [{e['begin']:.3f},{e['end']:.3f}] {e['outcome']}"
                  f" {e.get('note') or ''}" for e in rest[:8])
