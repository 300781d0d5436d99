"""Figures that the lab's report does not have, and what has to be reached; from one JSON result of the bench each."""

SETTLED_S = 5                         # after a start, and after the end of a foreground flow, the link must be full


def derive(r):
    """Figures beyond those of the bench: link use, pings above the idle link's, difference between sites."""
    figures = {"added_p95_ms": r["ping_ms"]["p95"] - r["ping_idle_ms"]["p95"],
               "fill": fill(r["timeline"], SETTLED_S, rate(r))}
    if "foreground" in r:
        begin, seconds = 12, 20       # as the bench has it
        figures["fill_afterwards"] = fill(r["timeline"], begin + seconds + SETTLED_S, rate(r))
    if r.get("uplink_timeline"):
        figures["site_spread"] = spread(r["host_s"])
        figures["uplink_fill"] = uplink_fill(r)
    return {name: value for name, value in figures.items() if value is not None}


def rate(r):
    """Of the WAN towards the site, bit/s."""
    return r["size"] * 8 / r["lower_bound_s"]


def fill(timeline, since, rate_bps):
    """Use of the first site's link, as a share, from a time until 95 % has arrived; None when it is there by then."""
    enough = 0.95 * timeline[-1][1]
    times = [(at, down) for at, down, _ in timeline if at >= since]
    until = next((pair for pair in times if pair[1] >= enough), None)
    if not until or until[0] - times[0][0] < 1:
        return None
    return (until[1] - times[0][1]) * 8 / rate_bps / (until[0] - times[0][0])


def uplink_fill(r):
    """Use of headquarters' uplink until the first site is done."""
    first = min(done_by_site(r["host_s"]).values())
    times = [(at, sent) for at, sent, _ in r["uplink_timeline"] if SETTLED_S <= at <= first]
    uplink_bps = r["size"] * 8 * len(done_by_site(r["host_s"])) / r["lower_bound_hq_s"]
    return (times[-1][1] - times[0][1]) * 8 / uplink_bps / (times[-1][0] - times[0][0]) if len(times) > 1 else None


def spread(host_s):
    """How much later the last site was done than the first."""
    sites = done_by_site(host_s)
    return max(sites.values()) / min(sites.values()) - 1


def done_by_site(host_s):
    sites = {}
    for host, seconds in host_s.items():
        site = host[:host.index("h")]
        sites[site] = max(seconds, sites.get(site, 0))
    return sites


# What has to be reached on the network that the scenarios describe: scenario, figure, smallest or largest value.
LIMITS = [
    ("L1", "time_ratio", "at most", 1.08), ("L1", "wan_ratio", "at most", 1.05), ("L1", "wan_up_ratio", "at most", 0.03),
    ("L1", "payload_ratio", "at most", 1.01), ("L1", "added_p95_ms", "at most", 40), ("L1", "fill", "at least", 0.92),
    ("L2", "site_spread", "at most", 0.10), ("L2", "uplink_fill", "at least", 0.92),
    ("L3", "wan_ratio", "at most", 1.05),
    ("L4", "time_ratio", "at most", 1.12), ("L4", "wan_ratio", "at most", 1.08),
    ("L5", "foreground_share", "at least", 0.90), ("L5", "fill_afterwards", "at least", 0.92),
    ("L6", "time_ratio", "at most", 1.12), ("L6", "wan_ratio", "at most", 1.06),
]


NETWORK = {"wan": "20mbit/5mbit", "rtt": "40ms", "queue": "200ms", "loss": "0"}
THIN_BPS = 2e6


def limits(r):
    """The limits that hold for a run: on another network only those of the link."""
    own = [limit for limit in LIMITS if limit[0] == r["scenario"]]
    if all(r["options"][name] == value for name, value in NETWORK.items()):
        return own
    at_loss = 0.92 if r["options"]["loss"] == "0" else 0.80
    pings = [("L1", "added_p95_ms", "at most", 100)] if rate(r) <= THIN_BPS else []
    return [("L1", "fill", "at least", at_loss), *pings] if r["scenario"] == "L1" else []


def table(results):
    """Lines of a table: what each run reached of what it has to."""
    lines = ["| run | figure | reached | limit | |", "| --- | --- | ---: | ---: | --- |"]
    for r in results:
        known = {**r, "foreground_share": r.get("foreground", {}).get("share")}
        for scenario, figure, sense, limit in limits(r):
            value = known.get(figure)
            if value is None:
                continue
            reached = value <= limit if sense == "at most" else value >= limit
            lines.append(f"| {r['peer']} {scenario} #{r['run']} | {figure} | {value:.3f} | {sense} {limit} | "
                         f"{'' if reached else 'missed'} |")
    return lines
