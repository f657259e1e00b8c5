#!/usr/bin/env bash
# analyzer.sh: gcc -fanalyzer over every C file of src/, with the flags of build/. A finding is a failure, unless
# tools/analyzer.known has its file and check: gcc 12 follows neither reference counts nor loops over counted arrays.
set -uo pipefail
cd "$(dirname "$0")/.."
python3 - <<'PY'
import json, os, re, shlex, subprocess, sys
known = {tuple(line.split()[:2]) for line in open("tools/analyzer.known") if line.strip() and line[0] != "#"}
bad = files = 0
seen = set()
for entry in json.load(open("build/compile_commands.json")):
    source = os.path.relpath(os.path.join(entry["directory"], entry["file"]))
    if not source.startswith("src/") or not source.endswith(".c"):
        continue
    command = shlex.split(entry["command"])
    command[command.index("-o") + 1] = "/dev/null"
    command = [a for a in command if not a.startswith(("-MD", "-MQ", "-MF"))]
    command = [a for a in command if not a.endswith((".o.d", ".o")) and a != "-fdiagnostics-color=always"]
    files += 1
    done = subprocess.run(command + ["-Wno-error", "-fanalyzer", "-Wno-analyzer-malloc-leak"], cwd=entry["directory"],
                          capture_output=True, text=True)
    found = {(source, check) for check in re.findall(r"\[-W(analyzer-[a-z-]+)\]", done.stderr)}
    seen |= found
    if done.returncode != 0 or found - known:
        bad += 1
        print(source, done.stderr, sep="\n")
for source, check in sorted(known - seen):
    print(f"tools/analyzer.known: {source} {check} isn't found any more")
print(f"{files} files, {bad} with new findings")
sys.exit(1 if bad or not files else 0)
PY
