#!/usr/bin/env python3
"""Absorbed MLA with numpy and the BLAS that numpy is linked with, float32: a peer for clmla.

Projections take the whole batch, attention goes request by request; the equations are those of
include/clmla.h. JSON on stdout. Softmax runs on all cores, as BLAS does.
"""
import concurrent.futures
import os
import sys

import numpy as np

import workload


def blas_name():
    """The library that is loaded, such as libopenblas.so.0 or libopenblasp-r0.3.21.so."""
    np.ones((2, 2), np.float32) @ np.ones((2, 2), np.float32)
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        paths = {os.path.realpath(line.split()[-1]) for line in maps if "/lib" in line}
    names = sorted(os.path.basename(p) for p in paths if "blas" in os.path.basename(p))
    return ", ".join(names) or "unknown BLAS"


class Backend:
    dtype = "f32"

    def __init__(self):
        self.threads = len(os.sched_getaffinity(0))
        self.pool = concurrent.futures.ThreadPoolExecutor(self.threads)
        self.software = f"numpy {np.__version__}, {blas_name()}"
        self.device = f"CPU, {self.threads} threads"

    def synchronise(self):
        pass

    def hidden(self, values):
        return values

    def numpy(self, values):
        return values

    def weights(self, c, patterns):
        w = {name: workload.widen(p) for name, p in patterns.items()}
        heads, lora = c["heads"], c["kv_lora"]
        kv_b = w.pop("kv_b_proj").reshape(heads, c["nope"] + c["v"], lora)
        w["uk"] = np.ascontiguousarray(kv_b[:, :c["nope"]])  # [head, nope, kv_lora]
        w["uv"] = np.ascontiguousarray(kv_b[:, c["nope"]:])  # [head, v, kv_lora]
        return w

    def cache(self, c, max_keys, kv, pe):
        rows = np.zeros((max_keys, c["kv_lora"] + c["rope"]), np.float32)
        if kv is not None:
            rows[:len(kv), :c["kv_lora"]] = kv
            rows[:len(pe), c["kv_lora"]:] = pe
        return rows

    def prepare(self, step):
        """What clmla keeps in its plan, besides cos and sin: the masks of the new tokens."""
        step.masks = {n: np.triu(np.ones((n, n), bool), 1) for n in set(step.counts) if n > 1}

    def rms_norm(self, x, weight, eps):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(eps)) * weight

    def rotate(self, x, cos, sin, out):
        """Interleaved pairs."""
        even, odd = x[..., 0::2], x[..., 1::2]
        out[..., 0::2] = even * cos - odd * sin
        out[..., 1::2] = even * sin + odd * cos

    def exp_rows(self, scores):
        """exp(scores - maximum of the row) in place; returns the sums of the rows."""
        sums = np.empty((len(scores), 1), np.float32)
        # a hand-over to the pool costs more than it saves where there is little to do
        parts = self.threads if scores.size >= 1 << 16 else 1

        def part(i):
            begin, end = len(scores) * i // parts, len(scores) * (i + 1) // parts
            block = scores[begin:end]
            block -= block.max(axis=1, keepdims=True)
            np.exp(block, out=block)
            block.sum(axis=1, keepdims=True, out=sums[begin:end])

        if parts == 1:
            part(0)
        else:
            list(self.pool.map(part, range(parts)))
        return sums

    def attend(self, c, q, n, past, cache, mask, out):
        """q [n, heads, kv_lora + rope] scaled, out [n, heads, kv_lora]."""
        heads, lora = c["heads"], c["kv_lora"]
        keys = cache[:past + n]
        scores = q.reshape(n * heads, -1) @ keys.T
        if n > 1:
            new = scores.reshape(n, heads, past + n)[:, :, past:]
            np.copyto(new, -np.inf, where=mask[:, None])
        sums = self.exp_rows(scores)
        ctx = scores @ keys[:, :lora]
        np.divide(ctx.reshape(n, heads, lora), sums.reshape(n, heads, 1), out=out)

    def forward(self, c, w, x, step, stages):
        heads, lora, nope = c["heads"], c["kv_lora"], c["nope"]
        tokens = len(x)

        def end(stage):
            if stages is not None:
                stages.end(stage)

        if stages is not None:
            stages.begin()
        if c["q_lora"]:
            q = x @ w["q_a_proj"].T
            end("q_a_proj")
            q = self.rms_norm(q, w["q_a_layernorm"], c["eps"])
            end("q_a_layernorm")
            q = q @ w["q_b_proj"].T
            end("q_b_proj")
        else:
            q = x @ w["q_proj"].T
            end("q_proj")
        kv = x @ w["kv_a_proj_with_mqa"].T
        end("kv_a_proj_with_mqa")
        latent = self.rms_norm(kv[:, :lora], w["kv_a_layernorm"], c["eps"])
        rope_keys = np.empty((tokens, c["rope"]), np.float32)
        self.rotate(kv[:, lora:], step.cos, step.sin, rope_keys)
        for row, n, past, cache in step.requests():
            cache[past:past + n, :lora] = latent[row:row + n]
            cache[past:past + n, lora:] = rope_keys[row:row + n]
        end("cache_append")
        q = q.reshape(tokens, heads, nope + c["rope"])
        query = np.empty((tokens, heads, lora + c["rope"]), np.float32)
        self.rotate(q[..., nope:], step.cos[:, None], step.sin[:, None], query[..., lora:])
        end("rope")
        q_nope = np.ascontiguousarray(q[..., :nope].transpose(1, 0, 2))
        query[..., :lora] = (q_nope @ w["uk"]).transpose(1, 0, 2)
        query *= np.float32(workload.softmax_scale(c))
        end("absorb")
        ctx = np.empty((tokens, heads, lora), np.float32)
        for row, n, past, cache in step.requests():
            self.attend(c, query[row:row + n], n, past, cache, step.masks.get(n),
                        ctx[row:row + n])
        end("attention")
        o = np.ascontiguousarray(ctx.transpose(1, 0, 2)) @ w["uv"].transpose(0, 2, 1)
        o = o.transpose(1, 0, 2).reshape(tokens, heads * c["v"])
        end("v_up")
        y = o @ w["o_proj"].T
        end("o_proj")
        return y


if __name__ == "__main__":
    sys.exit(workload.main("openblas", __doc__.splitlines()[0], lambda parser: None,
                           lambda options: Backend()))
