"""Fail when a test did not run that could not here: a green run must have seen all of them."""

import sys
import xml.etree.ElementTree as ET

skipped = [
    f"{case.get('classname')}.{case.get('name')}: {skip.get('message')}"
    for case in ET.parse(sys.argv[1]).iter("testcase")  # noqa: S314  (pytest wrote it a moment ago)
    for skip in case.iter("skipped")
]
if skipped:
    sys.exit("ci: these did not run:\n" + "\n".join(skipped))
