"""What the peers share: models, workloads and data of `clmla bench`, golden files, timing.

Data are those of src/ref/draw.c: the same seed gives the same weights, inputs and caches as
`clmla bench`. A peer module brings `make_backend(options)`, an object with
  weights(config, {name: bf16 patterns}) -> opaque weights of one layer
  cache(config, max_keys, kv, pe)        -> one request's cache, [max_keys, kv_lora + rope]
  hidden(values), numpy(values)          -> conversion from and to float32
  prepare(step)                          adds what the peer keeps for one step, untimed
  forward(config, weights, x, step, stages) -> y, where stages is None or a Stages
  synchronise()                          waits for the device
  capture(run) -> replay, output         with --graph: records run() once, replay() repeats it
"""
import argparse
import json
import math
import os
import statistics
import struct
import sys
import time

import numpy as np

LITE = dict(hidden=2048, heads=16, q_lora=0, kv_lora=512, nope=128, rope=64, v=128, eps=1e-6,
            theta=10000.0, yarn=dict(factor=40.0, original=4096, beta_fast=32.0, beta_slow=1.0,
                                     mscale=0.707))
R1 = dict(LITE, hidden=7168, heads=128, q_lora=1536, yarn=dict(LITE["yarn"], mscale=1.0))
MODELS = {"lite": LITE, "r1": R1}

# (new tokens, cached tokens) of each request, as in `clmla bench`; decode-1: one request alone
WORKLOADS = {
    "prefill": [(64, 512), (128, 0), (256, 0), (256, 256)],
    "decode": [(1, past) for past in (50, 100, 200, 400) for _ in range(4)],
    "decode-1": [(1, 50)],
}


# ---- data: src/ref/draw.c and src/cli/bench_data.c ----------------------------------------------

def _mix64(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draw(name, seed, count, kind, exp=0):
    """bf16 patterns (uint16) of a tensor; kind: sym, unit or norm."""
    fnv = 0xCBF29CE484222325
    for c in name.encode():
        fnv = ((fnv ^ c) * 0x100000001B3) % 2**64
    base = _mix64(np.array([fnv ^ seed], np.uint64))
    top = np.arange(256, dtype=np.int32)
    if kind == "sym":
        values = np.ldexp((2 * top - 255).astype(np.float32), exp - 8)
    elif kind == "unit":
        values = np.ldexp(top.astype(np.float32), -8)
    else:
        values = np.ldexp((64 + top // 2).astype(np.float32), -7)
    patterns = (values.view(np.uint32) >> 16).astype(np.uint16)
    out = np.empty(count, np.uint16)
    block = 1 << 18  # stays in the caches
    for i in range(0, count, block):
        n = min(block, count - i)
        counter = np.arange(i + 1, i + n + 1, dtype=np.uint64)
        z = _mix64(base + counter * np.uint64(0x9E3779B97F4A7C15))
        out[i:i + n] = patterns[z >> np.uint64(56)]
    return out


def widen(patterns):
    """bf16 patterns to float32."""
    return (patterns.astype(np.uint32) << 16).view(np.float32)


def weight_shapes(c):
    """{name: (shape, is_norm)} in the order of clmla_weights_params."""
    q_rows, q_in = c["heads"] * (c["nope"] + c["rope"]), c["q_lora"] or c["hidden"]
    shapes = {}
    if c["q_lora"]:
        shapes["q_a_proj"] = ((c["q_lora"], c["hidden"]), False)
        shapes["q_a_layernorm"] = ((c["q_lora"],), True)
        shapes["q_b_proj"] = ((q_rows, q_in), False)
    else:
        shapes["q_proj"] = ((q_rows, q_in), False)
    shapes["kv_a_proj_with_mqa"] = ((c["kv_lora"] + c["rope"], c["hidden"]), False)
    shapes["kv_a_layernorm"] = ((c["kv_lora"],), True)
    shapes["kv_b_proj"] = ((c["heads"] * (c["nope"] + c["v"]), c["kv_lora"]), False)
    shapes["o_proj"] = ((c["hidden"], c["heads"] * c["v"]), False)
    return shapes


def bench_weights(model, layer, seed, folder):
    """Drawn weights of one layer. folder: keeps them between processes, drawing takes seconds."""
    out = {}
    for name, (shape, is_norm) in weight_shapes(MODELS[model]).items():
        path = os.path.join(folder, f"{model}-{layer}-{seed}-{name}.npy") if folder else None
        if path and os.path.exists(path):
            out[name] = np.load(path)
            continue
        exp = round(-math.log2(math.sqrt(shape[-1] / 3.0))) + (name == "o_proj")
        full = f"model.layers.{layer}.self_attn.{name}.weight"
        out[name] = draw(full, seed, math.prod(shape), "norm" if is_norm else "sym",
                         0 if is_norm else exp).reshape(shape)
        if path:
            np.save(path, out[name])
    return out


# ---- position and scale: tests/golden/README.md, "Conventions" -----------------------------------

def frequencies(c):
    rope, yarn = c["rope"], c["yarn"]
    freq = c["theta"] ** (-2.0 * np.arange(rope // 2) / rope)
    if yarn is None:
        return freq

    def correction(turns):
        return rope * math.log(yarn["original"] / (2 * math.pi * turns)) / (
            2 * math.log(c["theta"]))

    low = max(math.floor(correction(yarn["beta_fast"])), 0)
    high = min(math.ceil(correction(yarn["beta_slow"])), rope - 1)
    ramp = np.clip((np.arange(rope // 2) - low) / (high - low or 0.001), 0.0, 1.0)
    return freq * (1 - ramp) + freq / yarn["factor"] * ramp


def softmax_scale(c):
    scale = (c["nope"] + c["rope"]) ** -0.5
    if c["yarn"] is not None:
        scale *= (0.1 * c["yarn"]["mscale"] * math.log(c["yarn"]["factor"]) + 1.0) ** 2
    return scale


class Step:
    """One call: for each request the new tokens, their place in the cache, and cos, sin."""

    def __init__(self, config, counts, pasts, caches):
        self.counts, self.pasts, self.caches = list(counts), list(pasts), caches
        positions = np.concatenate([np.arange(p, p + n) for n, p in zip(counts, pasts)])
        angles = positions[:, None] * frequencies(config)
        self.cos = np.cos(angles).astype(np.float32)
        self.sin = np.sin(angles).astype(np.float32)

    def requests(self):
        """(first row, new tokens, cached tokens, cache) of each."""
        row = 0
        for n, past, cache in zip(self.counts, self.pasts, self.caches):
            yield row, n, past, cache
            row += n


# ---- golden files ------------------------------------------------------------------------------

class Golden:
    def __init__(self, path):
        with open(path, "rb") as f:
            data = f.read()
        size = struct.unpack("<Q", data[:8])[0]
        self.header = json.loads(data[8:8 + size])
        self.data = data[8 + size:]
        self.meta = self.header.pop("__metadata__")
        if self.meta["layout"] != "recipe":
            raise ValueError(f"{path}: only the recipe cases (29 to 32) can be read")
        self.recipe = json.loads(self.meta["recipe"])["tensors"]
        c = json.loads(self.meta["config"])
        s = c["rope_scaling"]
        self.config = dict(
            hidden=c["hidden_size"], heads=c["num_attention_heads"], q_lora=c["q_lora_rank"] or 0,
            kv_lora=c["kv_lora_rank"], nope=c["qk_nope_head_dim"], rope=c["qk_rope_head_dim"],
            v=c["v_head_dim"], eps=c["rms_norm_eps"], theta=c["rope_theta"],
            yarn=s and dict(factor=s["factor"], original=s["original_max_position_embeddings"],
                            beta_fast=s["beta_fast"], beta_slow=s["beta_slow"],
                            mscale=s["mscale"]))

    def stored(self, name):
        entry = self.header[name]
        begin, end = entry["data_offsets"]
        kind = {"F64": np.float64, "F32": np.float32, "I32": np.int32, "BF16": np.uint16}
        values = np.frombuffer(self.data[begin:end], kind[entry["dtype"]]).reshape(entry["shape"])
        return widen(values) if entry["dtype"] == "BF16" else values

    def drawn(self, name):
        r = self.recipe[name]
        count, seed = math.prod(r["shape"]), int(self.meta["seed"])
        patterns = draw(name, seed, count, r["kind"], r.get("exp", 0))
        total = int(patterns.sum(dtype=np.uint64))
        if total != int(r["sum16"], 16):
            raise ValueError(f"{name}: drawn data differ from the recipe")
        return patterns.reshape(r["shape"])


def golden_errors(backend, path):
    """Relative L2 error and largest error over the stored rows of all requests and steps."""
    g = Golden(path)
    c = g.config
    requests = json.loads(g.meta["requests"])
    weights = backend.weights(c, {n: g.drawn(f"model.layers.0.self_attn.{n}.weight")
                                  for n in weight_shapes(c)})
    caches = []
    for r, request in enumerate(requests):
        past, new = request["past"], sum(request["steps"])
        kv = pe = None
        if past:
            kv = widen(g.drawn(f"req{r}.init.kv_cache"))[0]
            pe = widen(g.drawn(f"req{r}.init.pe_cache"))[0]
        caches.append(backend.cache(c, past + new, kv, pe))
    pasts = [request["past"] for request in requests]
    difference = norm = largest = 0.0
    for i in range(len(requests[0]["steps"])):
        counts = [request["steps"][i] for request in requests]
        names = [f"req{r}.step{i}." for r in range(len(requests))]
        x = np.concatenate([
            (g.stored(n + "hidden_states") if n + "hidden_states" in g.header else
             widen(g.drawn(n + "hidden_states"))).reshape(-1, c["hidden"]) for n in names])
        step = Step(c, counts, pasts, caches)
        backend.prepare(step)
        y = backend.numpy(backend.forward(c, weights, backend.hidden(x), step, None))
        row = 0
        for name, n in zip(names, counts):
            if name + "rows" in g.header:
                truth = g.stored(name + "output_rows").astype(np.float64)
                error = y[row + g.stored(name + "rows")] - truth
                difference += float((error**2).sum())
                norm += float((truth**2).sum())
                largest = max(largest, float(np.abs(error).max()))
            row += n
        pasts = [p + n for p, n in zip(pasts, counts)]
    error = math.sqrt(difference / norm)
    bound = float(g.meta[f"bound_{'f32' if backend.dtype == 'f32' else 'bf16'}_rel_l2"])
    return dict(case=g.meta["case"], rel_l2=error, rel_l2_bound=bound, max_abs=largest,
                result="PASS" if error <= bound else "FAIL")  # NaN does not pass


# ---- timing ------------------------------------------------------------------------------------

class Stages:
    """Seconds between marks; synchronise: waits for the device, on a CPU nothing."""

    def __init__(self, synchronise):
        self.synchronise, self.samples = synchronise, {}

    def begin(self):
        self.synchronise()
        self.last = time.perf_counter()

    def end(self, name):
        self.synchronise()
        now = time.perf_counter()
        self.samples.setdefault(name, []).append(now - self.last)
        self.last = now

    def medians_ms(self):
        return [dict(stage=name, median_ms=1e3 * statistics.median(s))
                for name, s in self.samples.items()]


def case_data(backend, model, case, num_layers, options, forwards):
    """Caches [layer][request] with room for so many forwards of a decode, and hidden states."""
    c, requests = MODELS[model], WORKLOADS[case]
    caches = []
    for layer in range(num_layers):
        row = []
        for r, (n, past) in enumerate(requests):
            kv, pe = (widen(draw(f"layer{layer}.req{r}.init.{part}_cache", options.seed,
                                 past * width, "sym", 1)).reshape(past, width)
                      for part, width in (("kv", c["kv_lora"]), ("pe", c["rope"])))
            new = n * (forwards if case.startswith("decode") else 1)
            row.append(backend.cache(c, past + new, kv, pe))
        caches.append(row)
    initial = backend.hidden(np.concatenate([
        widen(draw(f"req{r}.hidden_states", options.seed, n * c["hidden"], "sym", 1)).reshape(
            n, c["hidden"]) for r, (n, _) in enumerate(requests)]))
    return caches, initial


def graph_case(backend, model, case, weights, options):
    """The first forward through all layers, recorded once by backend.capture and replayed: decode
    does not grow. The replay's output must be the eager one's."""
    c, requests = MODELS[model], WORKLOADS[case]
    counts, pasts = [r[0] for r in requests], [r[1] for r in requests]
    caches, initial = case_data(backend, model, case, len(weights), options, 1)
    steps = [Step(c, counts, pasts, row) for row in caches]
    for step in steps:
        backend.prepare(step)

    def forward():
        x = initial
        for layer, step in zip(weights, steps):
            x = backend.forward(c, layer, x, step, None)
        return x

    def timed(runs):
        backend.synchronise()
        start = time.perf_counter()
        for _ in range(runs):
            replay()
        backend.synchronise()
        return time.perf_counter() - start

    expected = backend.numpy(forward()).astype(np.float64)
    replay, output = backend.capture(forward)
    output[:] = 0
    timed(1 + options.warmup)
    error = float(np.linalg.norm(backend.numpy(output) - expected) / np.linalg.norm(expected))
    begin, seconds = time.perf_counter(), []
    while len(seconds) < options.runs and (
            len(seconds) < 3 or time.perf_counter() - begin < options.max_seconds):
        seconds.append(timed(1))
    chain = timed(len(seconds)) / len(seconds)
    return dict(case=case, mode="batched", how="graph", dtype=backend.dtype,
                num_tokens=sum(counts), runs=len(seconds),
                median_ms=1e3 * statistics.median(seconds), min_ms=1e3 * min(seconds),
                chain_ms=1e3 * chain, rel_error=error if math.isfinite(error) else None,
                verified=error <= 1e-2)


def bench_case(backend, model, case, weights, options):
    """Forwards through all layers as `clmla bench --mode batched` does them: prefill from the same
    input each time, decode with its output fed back and growing caches."""
    c, requests = MODELS[model], WORKLOADS[case]
    counts, pasts = [r[0] for r in requests], [r[1] for r in requests]
    decode = case.startswith("decode")
    caches, initial = case_data(backend, model, case, len(weights), options,
                                options.warmup + options.runs + 3)

    def chain(runs, stages):
        seconds, x, now = [], initial, pasts
        for _ in range(runs):
            steps = [Step(c, counts, now, row) for row in caches]
            for step in steps:
                backend.prepare(step)
            backend.synchronise()
            start = time.perf_counter()
            for layer, step in zip(weights, steps):
                x = backend.forward(c, layer, x, step, stages)
            backend.synchronise()
            seconds.append(time.perf_counter() - start)
            if decode:
                now = [p + n for p, n in zip(now, counts)]
            else:
                x = initial
        return seconds

    chain(options.warmup, None)
    begin, seconds = time.perf_counter(), []
    while len(seconds) < options.runs and (
            len(seconds) < 3 or time.perf_counter() - begin < options.max_seconds):
        seconds += chain(min(options.runs - len(seconds), 3 if not decode else options.runs), None)
    stages = Stages(backend.synchronise)
    chain(3, stages)
    return dict(case=case, mode="batched", dtype=backend.dtype, num_tokens=sum(counts),
                runs=len(seconds), median_ms=1e3 * statistics.median(seconds),
                min_ms=1e3 * min(seconds), stages=stages.medians_ms())


def main(name, description, add_options, make_backend):
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--golden", nargs="+", metavar="FILE",
                   help="check these recipe cases and time nothing; exit 1 if a bound is exceeded")
    p.add_argument("--model", choices=MODELS, default="lite")
    p.add_argument("--case", default="prefill,decode", help=",".join(WORKLOADS))
    p.add_argument("--layers", type=int, default=1, help="layers with weights of their own")
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--runs", type=int, default=10)
    p.add_argument("--max-seconds", type=float, default=10.0,
                   help="fewer runs, at least 3, where a case takes longer")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--data", metavar="FOLDER", help="keeps drawn weights for the next process")
    add_options(p)
    options = p.parse_args()
    backend = make_backend(options)
    report = dict(peer=name, library=backend.software, device=backend.device, dtype=backend.dtype)
    if options.golden:
        report["golden"] = [golden_errors(backend, path) for path in options.golden]
    else:
        weights = [backend.weights(MODELS[options.model],
                                   bench_weights(options.model, i, options.seed, options.data))
                   for i in range(options.layers)]
        measure = graph_case if getattr(options, "graph", False) else bench_case
        report.update(model=options.model, layers=options.layers, seed=options.seed, results=[
            measure(backend, options.model, case, weights, options)
            for case in options.case.split(",")])
    json.dump(report, sys.stdout, indent=1)
    print()
    passed = [g["result"] == "PASS" for g in report.get("golden", [])]
    passed += [r.get("verified", True) for r in report.get("results", [])]
    return 0 if all(passed) else 1
