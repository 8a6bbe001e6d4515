"""Known vulnerabilities of the packages in this environment, by pip-audit, with a message where none could be looked up.

    make audit

pip-audit itself says "No known vulnerabilities found" also where its service knew none of the packages, as behind a mirror.
Exit code 0: all were looked up, and none is known to be vulnerable; 1: some are; 2: some or all could not be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def summary(found: dict[str, Any]) -> tuple[list[str], int]:
    """Lines to print and the exit code, of pip-audit's JSON."""
    skipped = [package for package in found["dependencies"] if "skip_reason" in package]
    audited = [package for package in found["dependencies"] if "skip_reason" not in package]
    hit = [(package, entry) for package in audited for entry in package["vulns"]]
    fixed = "fixed in"
    lines = [f"{p['name']} {p['version']}: {v['id']}, {fixed} {', '.join(v['fix_versions']) or 'no version'}" for p, v in hit]
    lines.append(f"{len(audited)} packages looked up, {len(hit)} known vulnerabilities; {len(skipped)} could not be looked up.")
    if skipped:
        lines.append(f"For instance {skipped[0]['name']}: {skipped[0]['skip_reason']}")
        lines.append("The audit needs the advisory service of pypi.org; a mirror of the packages does not do.")
    return lines, 1 if hit else 2 if skipped or not audited else 0


def main() -> None:
    """Run pip-audit over what is installed here, `sys.argv[1]` being its command."""
    others = [made for made in distributions() if made.name != "dola-decoding"]
    packages = sorted({f"{made.name}=={made.version.split('+')[0]}" for made in others})
    with TemporaryDirectory() as folder:
        listed, report = Path(folder, "packages.txt"), Path(folder, "report.json")
        listed.write_text("\n".join(packages))
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "-f=json", "-o", str(report)]
        command = [sys.argv[1], "-r", str(listed), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.exists():
            print(f"Nothing was audited: {(done.stderr.strip().splitlines() or ['pip-audit said nothing'])[-1]}")
            sys.exit(2)
        lines, code = summary(json.loads(report.read_text()))
    print("\n".join(lines))
    sys.exit(code)


if __name__ == "__main__":
    main()
