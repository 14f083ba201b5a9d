#!/usr/bin/env python3
"""Absorbed MLA with PyTorch on a CPU or a CUDA device, bf16 or float32: a peer for clmla.

Projections take the whole batch, attention goes request by request; the equations are those of
include/clmla.h. JSON on stdout. Softmax is float32 in both dtypes.
"""
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F

import workload


class Backend:
    def __init__(self, device, dtype):
        torch.set_grad_enabled(False)
        # By itself PyTorch may take half the cores, on the guess that each has two threads.
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.backends.cuda.matmul.allow_tf32 = False
        self.target = torch.device(device)
        if self.target.type == "cuda" and self.target.index is not None:
            torch.cuda.set_device(self.target)
        self.dtype = dtype
        self.type = torch.bfloat16 if dtype == "bf16" else torch.float32
        self.software = f"torch {torch.__version__}"
        self.device = (torch.cuda.get_device_name(self.target) if self.target.type == "cuda" else
                       f"CPU, {torch.get_num_threads()} threads")

    def synchronise(self):
        if self.target.type == "cuda":
            torch.cuda.synchronize(self.target)

    def capture(self, run):
        """A CUDA graph of run(), whose output stays where it is."""
        stream = torch.cuda.Stream(self.target)
        stream.wait_stream(torch.cuda.current_stream(self.target))
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries allocate what they need, outside the graph
                run()
        torch.cuda.current_stream(self.target).wait_stream(stream)
        self.synchronise()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = run()
        self.synchronise()
        return graph.replay, output

    def tensor(self, values, dtype=None):
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.target, dtype or self.type)

    def hidden(self, values):
        return self.tensor(values)

    def numpy(self, values):
        return values.float().cpu().numpy()

    def weights(self, c, patterns):
        w = {name: self.tensor(workload.widen(p)) for name, p in patterns.items()}
        for name in ("q_a_layernorm", "kv_a_layernorm"):
            if name in w:
                w[name] = w[name].float()
        kv_b = w.pop("kv_b_proj").view(c["heads"], c["nope"] + c["v"], c["kv_lora"])
        w["uk"] = kv_b[:, :c["nope"]].contiguous()                  # [head, nope, kv_lora]
        w["uv"] = kv_b[:, c["nope"]:].transpose(1, 2).contiguous()  # [head, kv_lora, v]
        return w

    def cache(self, c, max_keys, kv, pe):
        rows = torch.zeros(max_keys, c["kv_lora"] + c["rope"], dtype=self.type, device=self.target)
        if kv is not None:
            rows[:len(kv), :c["kv_lora"]] = self.tensor(kv)
            rows[:len(pe), c["kv_lora"]:] = self.tensor(pe)
        return rows

    def prepare(self, step):
        """What clmla keeps in its plan: cos and sin, and the masks of the new tokens."""
        step.cos_sin = self.tensor(step.cos, torch.float32), self.tensor(step.sin, torch.float32)
        step.masks = {n: torch.ones(n, n, dtype=torch.bool, device=self.target).triu(1)
                      for n in set(step.counts) if n > 1}

    def rms_norm(self, x, weight, eps):
        x = x.float()
        return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight).to(self.type)

    def rotate(self, x, cos, sin):
        """Interleaved pairs."""
        x = x.float()
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(
            self.type)

    def attend(self, c, scale, q, n, past, cache, mask):
        """q [n, heads, kv_lora + rope]; returns [n, heads, kv_lora]."""
        keys = cache[:past + n]
        scores = (q.reshape(n * c["heads"], -1) @ keys.T).float() * scale
        if n > 1:
            scores.view(n, c["heads"], -1)[:, :, past:].masked_fill_(mask[:, None], -torch.inf)
        p = torch.softmax(scores, -1).to(self.type)
        return (p @ keys[:, :c["kv_lora"]]).view(n, c["heads"], -1)

    def forward(self, c, w, x, step, stages):
        heads, lora, nope, tokens = c["heads"], c["kv_lora"], c["nope"], len(x)
        cos, sin = step.cos_sin

        def end(stage):
            if stages is not None:
                stages.end(stage)

        if stages is not None:
            stages.begin()
        if c["q_lora"]:
            q = F.linear(x, w["q_a_proj"])
            end("q_a_proj")
            q = self.rms_norm(q, w["q_a_layernorm"], c["eps"])
            end("q_a_layernorm")
            q = F.linear(q, w["q_b_proj"])
            end("q_b_proj")
        else:
            q = F.linear(x, w["q_proj"])
            end("q_proj")
        kv = F.linear(x, w["kv_a_proj_with_mqa"])
        end("kv_a_proj_with_mqa")
        rows = torch.cat((self.rms_norm(kv[:, :lora], w["kv_a_layernorm"], c["eps"]),
                          self.rotate(kv[:, lora:], cos, sin)), -1)
        for row, n, past, cache in step.requests():
            cache[past:past + n] = rows[row:row + n]
        end("cache_append")
        q = q.view(tokens, heads, -1)
        q_pe = self.rotate(q[..., nope:], cos[:, None], sin[:, None])
        end("rope")
        q_lat = torch.bmm(q[..., :nope].transpose(0, 1), w["uk"]).transpose(0, 1)
        query = torch.cat((q_lat, q_pe), -1)
        end("absorb")
        scale = workload.softmax_scale(c)
        ctx = torch.cat([self.attend(c, scale, query[row:row + n], n, past, cache,
                                     step.masks.get(n))
                         for row, n, past, cache in step.requests()])
        end("attention")
        o = torch.bmm(ctx.transpose(0, 1), w["uv"]).transpose(0, 1).reshape(tokens, -1)
        end("v_up")
        y = F.linear(o, w["o_proj"])
        end("o_proj")
        return y


def add_options(parser):
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--graph", action="store_true",
                        help="replay the first forward as a CUDA graph (--device cuda)")
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")


if __name__ == "__main__":
    sys.exit(workload.main("torch", __doc__.splitlines()[0], add_options,
                           lambda options: Backend(options.device, options.dtype)))
