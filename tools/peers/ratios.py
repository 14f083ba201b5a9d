#!/usr/bin/env python3
"""Reads what compare.sh measured and prints clmla's times over those of the peers.

ratios.py FOLDER: FOLDER holds NAME.MODEL.ROUND.json, reports of `clmla bench --stages` (names auto
and off, after --matrix-units) and of the peers (openblas, torch-bf16, torch-f32), agreement.*.json
and devices-NAME-MODEL-ROUND-TRY-before.json and -after.json, the device's ceilings on both sides of
the decode of one row, NAME.MODEL.ROUND-TRY.json. Exit code 1 when a result did not agree, 0 also where a target is missed.
"""
import collections
import glob
import json
import os
import statistics
import sys

PATHS = {"off": "fp32 path", "auto": "bf16 dot"}
SHAPES = {  # stage: N, K
    "lite": {"q_proj": (3072, 2048), "kv_a_proj_with_mqa": (576, 2048), "o_proj": (2048, 2048)},
    "r1": {"q_a_proj": (1536, 7168), "q_b_proj": (24576, 1536), "kv_a_proj_with_mqa": (576, 7168),
           "o_proj": (7168, 16384)},
}
ROWS = {"prefill": 704, "decode": 16, "decode-1": 1}
HEADS = {"lite": 16, "r1": 128}

# time over OpenBLAS float32's at most: (fp32 path, bf16 dot)
PROJECTION = {704: (0.90, 0.48), 16: (0.40, 0.25)}
ATTENTION = {("decode", "lite"): (0.60, 0.36), ("decode", "r1"): (0.90, 0.58),
             ("prefill", "lite"): (0.65, 0.42), ("prefill", "r1"): (0.68, 0.45)}
LAYER = {("decode", "lite"): (0.40, 0.30), ("prefill", "lite"): (0.82, 0.48),
         ("decode", "r1"): (0.34, 0.24), ("prefill", "r1"): (0.82, 0.45)}
BANDWIDTH = 0.85  # of the device's measured read bandwidth, at least, in bytes of weights
SLACK = 1.10      # for noise
STEADY = 0.85     # the lower of two read bandwidths over the higher, where one row's share counts


def read(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def collect(folder):
    """{(name, model, case, what): [ms of each round]}; what: layer, sum or a stage."""
    times = collections.defaultdict(list)
    reports = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.*.*.json"))):
        name, model, _, _ = os.path.basename(path).split(".")
        report = reports[name] = read(path)
        for result in report["results"]:
            case = result["case"]
            if result["num_tokens"] == 1:
                case = "decode-1"
            key = name, model, case
            times[key + ("layer",)].append(result["median_ms"] / report["layers"])
            stages = collections.Counter()  # a layer in several blocks names a stage several times
            for stage in result["stages"]:
                stages[stage["stage"]] += stage["median_ms"]
            for stage, ms in stages.items():
                times[key + (stage,)].append(ms)
            times[key + ("sum",)].append(sum(stages.values()))
    return {key: statistics.median(ms) for key, ms in times.items()}, times, reports


def collect_devices(folder):
    """{(name, model): [(before, after) of each try]}, in collect's order: the device, measured."""
    devices = collections.defaultdict(list)
    for path in sorted(glob.glob(os.path.join(folder, "devices-*-before.json"))):
        _, name, model, *_ = os.path.basename(path).split("-")
        after = path.removesuffix("before.json") + "after.json"
        devices[name, model].append([read(p)["devices"][0] for p in (path, after)])
    return devices


def steady_shares(weights, times, devices):
    """Weight bytes (bf16) per second over the read bandwidth, for the tries during which that stayed the
    same: a virtual machine's changes with where its host runs it."""
    shares = []
    for ms, sides in zip(times, devices):
        low, high = sorted(side["read_gb_per_s"] for side in sides)
        if low >= STEADY * high:
            shares.append(2e-6 * weights / ms / ((low + high) / 2))
    return shares


class Table:
    def __init__(self, *titles):
        self.lines = []
        self.add(*titles)
        self.add(*["---"] * len(titles))

    def add(self, *cells):
        if any(cell != "-" for cell in cells[1:]):  # else the model was not measured
            self.lines.append("| " + " | ".join(cells) + " |")

    def __str__(self):
        return "\n".join(self.lines)


def milliseconds(value):
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def verdict(met):
    return "PASS" if met else "over"


def against(median, model, case, what, targets):
    """Cells: OpenBLAS's time, then per path time, ratio, target and PASS or over."""
    base = median.get(("openblas", model, case, what))
    cells = [milliseconds(base)]
    for path, target in zip(PATHS, targets):
        own = median.get((path, model, case, what))
        if own is None or base is None:
            cells += [milliseconds(own), "-"]
            continue
        ratio = own / base
        cells += [milliseconds(own),
                  f"{ratio:.2f} (≤ {target:.2f} {verdict(ratio <= target * SLACK)})"]
    return cells


def ratio_table(median):
    t = Table("time of one layer or op, ms", "OpenBLAS fp32", "clmla fp32 path", "ratio",
              "clmla bf16 dot", "ratio")
    for case, targets in (("prefill", PROJECTION[704]), ("decode", PROJECTION[16])):
        for model, stages in SHAPES.items():
            for stage, (n, k) in stages.items():
                t.add(f"projection, {ROWS[case]} rows, {n}×{k}",
                      *against(median, model, case, stage, targets))
    for (case, model), targets in ATTENTION.items():
        t.add(f"attention {case}, {HEADS[model]} heads",
              *against(median, model, case, "attention", targets))
    for (case, model), targets in LAYER.items():
        t.add(f"layer, {model} {case}", *against(median, model, case, "layer", targets))
    return t


def bandwidth_table(median, times, devices):
    t = Table("projection, 1 row", "OpenBLAS fp32 ms", "clmla fp32 path ms",
              "share of read bandwidth", "clmla bf16 dot ms", "share of read bandwidth")
    for model, stages in SHAPES.items():
        for stage, (n, k) in stages.items():
            cells = [f"{n}×{k}", milliseconds(median.get(("openblas", model, "decode-1", stage)))]
            for path in PATHS:
                key = path, model, "decode-1", stage
                own, share = median.get(key), "-"
                if own is not None:
                    shares = steady_shares(n * k, times[key], devices[path, model])
                    reached = statistics.median(shares) if shares else None
                    share = f"{reached:.2f}" if shares else "bandwidth not steady"
                    if shares and n * k >= 2048 * 2048:
                        share += f" (≥ {BANDWIDTH:.2f} {verdict(reached * SLACK >= BANDWIDTH)})"
                cells += [milliseconds(own), share]
            t.add(*cells)
    return t


def torch_table(median):
    t = Table("layer", "torch bf16 ms", "torch fp32 ms", "clmla bf16 dot ms", "over torch bf16",
              "clmla fp32 path ms", "over torch fp32")
    for model in SHAPES:
        for case in ROWS:
            key = (model, case, "layer")
            bf16, f32 = median.get(("torch-bf16",) + key), median.get(("torch-f32",) + key)
            dot, off = median.get(("auto",) + key), median.get(("off",) + key)
            cells = [f"{model} {case.removesuffix('-1')}, {ROWS[case]} row(s)", milliseconds(bf16), milliseconds(f32)]
            for own, peer in ((dot, bf16), (off, f32)):
                cells.append(milliseconds(own))
                cells.append("-" if own is None or peer is None else
                             f"{own / peer:.2f} ({'ahead' if own < peer else 'behind'})")
            t.add(*cells)
    return t


def spread(times):
    """Median over all figures of (largest - smallest) / median between the rounds."""
    values = [(max(ms) - min(ms)) / statistics.median(ms) for ms in times.values()
              if len(ms) > 1 and statistics.median(ms) > 0]
    return statistics.median(values) if values else None


def print_agreement(folder):
    agreed = True
    for path in sorted(glob.glob(os.path.join(folder, "agreement.*.json"))):
        name = os.path.basename(path).split(".")[1]
        report = read(path)
        rows = report.get("golden") or report["results"]
        passed = sum(row["result"] == "PASS" for row in rows)
        agreed = agreed and passed == len(rows) > 0
        worst = max(row["rel_l2"] / row["rel_l2_bound"] for row in rows)
        print(f"- {name}: {passed} of {len(rows)} golden cases within their bounds, the largest "
              f"error at {worst:.2f} of its bound")
    return agreed


def main():
    folder = sys.argv[1]
    median, times, reports = collect(folder)
    devices = collect_devices(folder)
    ceilings = [side for rounds in devices.values() for sides in rounds for side in sides]
    bandwidths = [device["read_gb_per_s"] for device in ceilings]
    steady = [bool(steady_shares(1, [1], [sides])) for rounds in devices.values()
              for sides in rounds]
    rounds = max(len(ms) for key, ms in times.items() if key[2] != "decode-1")
    print("Agreement:\n")
    agreed = print_agreement(folder)
    print("\nMeasured:\n")
    for name, report in sorted(reports.items()):
        if name in PATHS:
            d = report["device"]
            print(f"- clmla {report['clmla']}, {PATHS[name]}: {d['name']}, {d['platform']} "
                  f"{d['driver']}, class {d['class']}")
        else:
            print(f"- {name}: {report['library']}, {report['device']}")
    print(f"- read bandwidth {statistics.median(bandwidths):.1f} GB/s ({min(bandwidths):.1f} to "
          f"{max(bandwidths):.1f}), float32 multiply-adds "
          f"{max(device['fma_gflop_per_s'] for device in ceilings):.0f} GFLOP/s (clmla devices "
          "--measure, before and after each measurement of one row)")
    print(f"- one row's share of it counts where both bandwidths differ by at most "
          f"{100 * (1 - STEADY):.0f} %: {sum(steady)} of {len(steady)} measurements")
    noise = spread(times)
    print(f"- {rounds} alternation(s), medians" + (
        f"; between rounds the median figure spreads by {100 * noise:.0f} %" if noise else ""))
    print(f"- targets have {100 * (SLACK - 1):.0f} % slack for noise\n")
    print(ratio_table(median), bandwidth_table(median, times, devices), sep="\n\n")
    if any(name.startswith("torch") for name in reports):
        print("", torch_table(median), sep="\n")
    print("\nSum of the timed stages over the layer's time without marks:\n")
    for name in sorted(reports):
        shares = []
        for model in SHAPES:
            for case in ROWS:
                key = name, model, case
                if key + ("sum",) in median:
                    share = median[key + ("sum",)] / median[key + ("layer",)]
                    shares.append(f"{model} {case} {share:.2f}")
        print(f"- {name}: {', '.join(shares)}")
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
