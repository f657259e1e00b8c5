#!/usr/bin/env bash
# analyzer.sh: gcc -fanalyzer over every C file of src/, with the flags of build/. Any finding is a failure.
set -uo pipefail
cd "$(dirname "$0")/.."
python3 - <<'PY'
import json, os, shlex, subprocess, sys
bad = files = 0
for entry in json.load(open("build/compile_commands.json")):
    source = os.path.relpath(os.path.join(entry["directory"], entry["file"]))
    if not source.startswith("src/") or not source.endswith(".c"):
        continue
    command = shlex.split(entry["command"])
    command[command.index("-o") + 1] = "/dev/null"
    command = [a for a in command if not a.startswith(("-MD", "-MQ", "-MF"))]
    command = [a for a in command if not a.endswith((".o.d", ".o"))]
    files += 1
    done = subprocess.run(command + ["-fanalyzer", "-Wno-analyzer-malloc-leak"], cwd=entry["directory"],
                          capture_output=True, text=True)
    if done.returncode != 0:
        bad += 1
        print(source, done.stderr, sep="\n")
print(f"{files} files, {bad} with findings")
sys.exit(1 if bad or not files else 0)
PY
