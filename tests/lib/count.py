#!/usr/bin/env python3
"""Counts tests in what the runners leave behind; prints "PASSED FAILED". Used by tests/run.sh and tests/soak.sh.

  count.py meson testlog.json   each cmocka (or unittest) test counts; a binary that died or reports nothing is one failure
  count.py sim output           each seed counts, as the simulator's last line says
  count.py junit file.xml       pytest; a skipped test counts as neither
A file that isn't there counts nothing: the caller turns "nothing ran" into a failure.
"""
import json
import re
import sys
import xml.etree.ElementTree as ET


def meson(path):
    passed = failed = 0
    for line in open(path, encoding="utf-8", errors="replace"):
        test = json.loads(line)
        text = (test.get("stdout") or "") + (test.get("stderr") or "")
        ok = len(re.findall(r"^\[       OK \]", text, re.M)) + len(re.findall(r"^ok \d", text, re.M))
        # cmocka repeats failed names in its summary: count names
        bad = len(set(re.findall(r"^\[  FAILED  \] (?!.*test\(s\))(\S+)", text, re.M)))
        bad += len(re.findall(r"^not ok \d", text, re.M))
        ran = re.search(r"^Ran (\d+) tests? in ", text, re.M)  # Python's unittest
        if ran:
            wrong = sum(map(int, re.findall(r"(?:failures|errors)=(\d+)", text)))
            ok += max(int(ran.group(1)) - wrong, 0)
            bad += wrong
        good = test["result"] in ("OK", "EXPECTEDFAIL")
        if not good and bad == 0:
            bad = 1
            print(f"{test['name']}: {test['result']}", file=sys.stderr)
        if good and ok == 0:
            bad += 1
            print(f"{test['name']}: no test ran", file=sys.stderr)
        passed += ok
        failed += bad
    return passed, failed


def sim(path):
    passed = failed = 0
    for line in open(path, encoding="utf-8", errors="replace"):
        found = re.match(r"seeds (\d+)-(\d+): (\d+) failed", line)
        if found:
            first, last, bad = map(int, found.groups())
            passed += last - first + 1 - bad
            failed += bad
    return passed, failed


def junit(path):
    passed = failed = 0
    for suite in ET.parse(path).getroot().iter("testsuite"):
        total, bad = int(suite.get("tests")), int(suite.get("failures")) + int(suite.get("errors"))
        failed += bad
        passed += max(total - bad - int(suite.get("skipped")), 0)
    return passed, failed


def main():
    try:
        if sys.argv[1] == "meson":
            counts = meson(sys.argv[2])
        elif sys.argv[1] == "sim":
            counts = sim(sys.argv[2])
        else:
            counts = junit(sys.argv[2])
    except (OSError, ValueError, ET.ParseError) as e:
        print(f"count.py: {e}", file=sys.stderr)
        counts = (0, 0)
    print(*counts)


main()
