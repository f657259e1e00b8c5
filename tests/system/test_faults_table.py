"""FAULTS.md is what we promise to survive. Each of its rows names tests; they must exist, and none may be skipped
without a condition. And each fault test must be in the table."""
import ast
import glob
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
# Words of the rows that the table has to have, in the order of the promise.
ROWS = ["kill -9 of each process", "kill -9 of a zone", "SIGSTOP of a zone", "both zones killed", "host lost",
        "link cut both ways", "link cut one way", "lossy link", "slow peer", "peer's disk full",
        "own disk full", "failed sync", "torn bytes", "corrupted bytes in the log", "corrupted index",
        "clock stepped", "directory wiped", "directory rolled back", "dead etcd member", "dead witness",
        "witness, then a zone", "upload running through a failover", "bucket deleted while a put runs"]


def table():
    rows = []
    with open(os.path.join(HERE, "FAULTS.md")) as f:
        for line in f:
            cells = [c.strip() for c in line.strip().strip("|").split("|")]
            if len(cells) == 4 and cells[0] not in ("fault", "") and not set(cells[0]) <= set("-: "):
                rows.append(cells)
    return rows


def known_tests():
    """{"file.py::name": its node}"""
    found = {}
    for path in glob.glob(os.path.join(HERE, "test_*.py")):
        with open(path) as f:
            tree = ast.parse(f.read())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{os.path.basename(path)}::{node.name}"] = node
    return found


def skipped(node):
    for d in node.decorator_list:
        if ast.unparse(d).startswith("pytest.mark.skip") and "skipif" not in ast.unparse(d):
            return True
        if "xfail" in ast.unparse(d):
            return True
    first = node.body[1] if isinstance(node.body[0], ast.Expr) and len(node.body) > 1 else node.body[0]
    return "pytest.skip" in ast.unparse(first) and not isinstance(first, ast.If)


def test_every_row_has_its_tests():
    known = known_tests()
    rows = table()
    assert rows, "FAULTS.md has no table"
    for fault, made, asserted, names in rows:
        assert made and asserted, f"{fault}: how is it made, what is asserted?"
        named = re.findall(r"`([^`]+)`", names)
        assert named, f"{fault}: no test"
        for name in named:
            assert name in known, f"{fault}: there is no {name}"
            assert not skipped(known[name]), f"{fault}: {name} is skipped"
        assert not all("soak" in "".join(map(ast.unparse, known[name].decorator_list)) for name in named) \
            or "`make soak`" in made, f"{fault}: make test runs none of its tests, and the row doesn't say so"


def test_every_fault_has_its_row():
    faults = [row[0] for row in table()]
    for wanted in ROWS:
        assert any(wanted in fault for fault in faults), f"no row: {wanted}"


def test_every_fault_test_is_in_the_table():
    named = set(re.findall(r"`(test_faults_[^`]+)`", "".join(row[3] for row in table())))
    missing = [t for t in known_tests() if t.startswith("test_faults_") and "test_faults_table" not in t
               and t not in named]
    assert not missing, missing
