"""`make audit` does not report packages as safe if it could not look them up."""

from audit import summary

FINE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found on PyPI"}


def test_all_is_well():
    assert summary({"dependencies": [FINE]}) == (
        ["1 packages looked up, 0 known vulnerabilities; 0 could not be looked up."],
        0,
    )


def test_a_vulnerability_is_named():
    lines, code = summary({"dependencies": [FINE, BAD, UNKNOWN]})
    assert (lines[0], code) == ("b 2: CVE-1, fixed in 3", 1)


def test_a_failed_lookup_is_not_reported_as_success():
    lines, code = summary({"dependencies": [UNKNOWN]})
    assert code == 2
    assert "0 packages looked up" in lines[0]
    assert "not found on PyPI" in lines[1]
    assert summary({"dependencies": []})[1] == 2
