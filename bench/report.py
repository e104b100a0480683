"""The results as a table for people and as JSON for programs."""

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.contenders import BASELINE, SERVICE, contenders
from bench.cpu import Samples
from bench.crowd import Crowd
from bench.later_calls import SDK, TURNS
from bench.noise import Spread, ratios
from bench.posts import Posts
from bench.start import FIRST, Footprint, Startups
from bench.workload import CONCURRENCY, CROWD, WORKLOADS

TARGETS = {"w1": 1.0, "w2": 0.75}
"""The service's CPU per task, by that of the bare loop on its default transport, at most."""
CROWD_WALL_TARGET = 0.3
"""W3's wall time, by that of the bare loop on its default transport, at most."""
CROWD_PEAK_TARGET_MB = 160.0
LATER_TARGET = 1.0
"""A call at the end of a long conversation, by that of the SDK's own loop, at most."""
READY_TARGET_S = 3.0
IN_FLIGHT_TARGET_KB = 60.0
"""One more task in flight, at most."""


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured."""

    samples: Samples
    crowd: list[Crowd]
    later: dict[str, list[float]]
    """CPU milliseconds of a call at the end of a long conversation: by side, round by round."""
    posts: Posts
    ledger: dict[str, Spread]
    startups: Startups
    footprint: Footprint
    fsync_ms: float
    took_s: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the target beside each figure that has one."""
        samples = self.samples
        return {
            "machine": machine(),
            "fsync_ms": self.fsync_ms,
            "took_s": self.took_s,
            "spin_ms": asdict(Spread.of(s * 1e3 for s in samples.spins_s)),
            "upstream_us_per_call": asdict(Spread.of(samples.upstream_us)),
            "concurrency": CONCURRENCY,
            "tasks": {
                what: {name: self._task(name, what) for name in contenders()} for what in WORKLOADS
            },
            "crowd": [asdict(one) for one in self.crowd],
            "later_call_ms": {
                name: {
                    **asdict(Spread.of(ms)),
                    "ratio": asdict(ratios(ms, self.later[SDK])),
                }
                for name, ms in self.later.items()
            },
            "targets": {
                "ratio": TARGETS,
                "ready_s": READY_TARGET_S,
                "crowd_wall_ratio": CROWD_WALL_TARGET,
                "crowd_peak_mb": CROWD_PEAK_TARGET_MB,
                "crowd_failed": 0,
                "later_call_ratio": LATER_TARGET,
                "in_flight_kb": IN_FLIGHT_TARGET_KB,
            },
            "post_tasks": asdict(self.posts),
            "ledger_us_per_pair": {name: asdict(spread) for name, spread in self.ledger.items()},
            "start": asdict(self.startups),
            "footprint": asdict(self.footprint),
        }

    def _task(self, name: str, what: str) -> dict[str, Any]:
        samples, key = self.samples, (name, what)
        return {
            "cpu_ms": asdict(Spread.of(samples.cpu_ms[key])),
            "ratio": asdict(ratios(samples.cpu_ms[key], samples.cpu_ms[BASELINE, what])),
            "tasks_per_s": asdict(Spread.of(samples.per_s[key])),
            "cpu_ms_rounds": samples.cpu_ms[key],
        }


def machine() -> dict[str, Any]:
    """What it ran on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": names[0] if names else platform.machine(),
        "cores": len(names),
    }


def table(results: Results) -> str:
    """The results on one screen."""
    facts = machine()
    where = f"Python {facts['python']}, {facts['cores']} cores {facts['cpu']}"
    lines = [
        f"{where}, fsync {results.fsync_ms:.2f} ms; took {results.took_s:.0f} s.",
        "Median (lowest to highest) of the rounds.",
        *_tasks(results.samples),
        *crowd_lines(results.crowd),
        *later_lines(results.later),
        *_parts(results),
    ]
    return "\n".join(lines) + "\n"


def _tasks(samples: Samples) -> list[str]:
    lines = []
    for what, text in WORKLOADS.items():
        lines += [
            "",
            f"{what.upper()}: {text}, {CONCURRENCY} in flight",
            f"  {'':34}{'CPU ms per task':24}{'ratio':22}tasks/s",
        ]
        base = samples.cpu_ms[BASELINE, what]
        for name in contenders():
            own = samples.cpu_ms[name, what]
            per_s = Spread.of(samples.per_s[name, what]).median
            ratio = _shown(ratios(own, base), 2)
            lines.append(f"  {name:34}{_shown(Spread.of(own), 2):24}{ratio:22}{per_s:.0f}")
        reached = ratios(samples.cpu_ms[SERVICE, what], base).median
        lines.append(f"  target: ratio <= {TARGETS[what]}{_verdict(reached <= TARGETS[what])}")
    spins = Spread.of(s * 1e3 for s in samples.spins_s)
    upstream = Spread.of(samples.upstream_us)
    noise = f"fixed work took {_shown(spins, 2)} ms; upstream {_shown(upstream, 0)} us CPU per call"
    return [*lines, "", f"Noise: {noise}"]


def crowd_lines(found: list[Crowd]) -> list[str]:
    """W3, with its verdicts."""

    def of(name: str) -> list[Crowd]:
        return [one for one in found if one.name == name]

    base = [one.wall_s for one in of(BASELINE)]
    lines = [
        "",
        f"W3: as W2, {CROWD} in flight, 200 ms a model call",
        f"  {'':34}{'wall s':24}{'ratio':22}{'CPU ms per task':24}peak MB  failed",
    ]
    for name in dict.fromkeys(one.name for one in found):
        own = of(name)
        wall_s = [one.wall_s for one in own]
        cpu = _shown(Spread.of(one.cpu_ms for one in own), 2)
        peak_mb = max(one.peak_mb for one in own)
        lines.append(
            f"  {name:34}{_shown(Spread.of(wall_s), 1):24}{_shown(ratios(wall_s, base), 2):22}{cpu:24}{peak_mb:<9.0f}{sum(one.failed for one in own)}"
        )
    ours = of(SERVICE)
    wall = ratios([one.wall_s for one in ours], base).median
    peak_mb = max(one.peak_mb for one in ours)
    failed = sum(one.failed for one in ours)
    return [
        *lines,
        f"  target: ratio <= {CROWD_WALL_TARGET}{_verdict(wall <= CROWD_WALL_TARGET)}",
        f"  target: peak <= {CROWD_PEAK_TARGET_MB:.0f} MB{_verdict(peak_mb <= CROWD_PEAK_TARGET_MB)}",
        f"  target: 0 failures{_verdict(failed == 0)}",
    ]


def later_lines(found: dict[str, list[float]]) -> list[str]:
    """A call at the end of a long conversation, with its verdict."""
    lines = [
        "",
        f"A later call: a conversation of {TURNS} turns behind it, no sockets",
        f"  {'':34}{'CPU ms per call':24}ratio",
    ]
    for name, ms in found.items():
        ratio = _shown(ratios(ms, found[SDK]), 2)
        lines.append(f"  {name:34}{_shown(Spread.of(ms), 2):24}{ratio}")
    worst = max(ratios(ms, found[SDK]).median for name, ms in found.items() if name != SDK)
    return [*lines, f"  target: no dearer than the SDK's own{_verdict(worst <= LATER_TARGET)}"]


def _parts(results: Results) -> list[str]:
    posts, start, footprint = results.posts, results.startups, results.footprint
    ready = _verdict(max(start.cold_s.median, start.warm_s.median) <= READY_TARGET_S)
    rows = {
        "POST /tasks, CPU us": _shown(posts.cpu_us, 0),
        "POST /tasks, requests per second": _shown(posts.per_s, 0),
        **{f"Ledger, CPU us: {name}": _shown(us, 0) for name, us in results.ledger.items()},
        "Start to ready, cold, s": f"{_shown(start.cold_s, 2)}  CPU {_shown(start.cold_cpu_s, 2)}",
        "Start to ready, warm, s": f"{_shown(start.warm_s, 2)}  CPU {_shown(start.warm_cpu_s, 2)}",
        f"  target: <= {READY_TARGET_S:g} s": ready.strip(),
        "Idle, MB resident": f"{footprint.idle_rss_mb:.0f}",
        "Idle, CPU ms per second": f"{footprint.idle_cpu_ms_per_s:.2f}",
    }
    for one in footprint.in_flight:
        reached = _verdict(one.kb_per_task <= IN_FLIGHT_TARGET_KB)
        each = f"each beyond {FIRST}: {one.kb_per_task:.0f} KB"
        target = f"target: <= {IN_FLIGHT_TARGET_KB:.0f} KB{reached}"
        rows[f"{one.tasks:,} tasks in flight, MB"] = f"{one.rss_mb:.0f}  {each}, {target}"
    return ["", *(f"{name:44}{value}" for name, value in rows.items())]


def _shown(spread: Spread, digits: int) -> str:
    low, high = f"{spread.low:.{digits}f}", f"{spread.high:.{digits}f}"
    return f"{spread.median:.{digits}f} ({low} to {high})"


def _verdict(reached: bool) -> str:  # noqa: FBT001  (a word for a fact)
    return "  reached" if reached else "  MISSED"
