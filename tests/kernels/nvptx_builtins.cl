/*
 * OpenCL C built-ins for check_ptx.sh, linked in front of libclc: those that libclc turns into
 * intrinsics without an instruction on NVIDIA GPUs (clang then gives up: "no libcall available"), or
 * into long code. NVIDIA's own compiler takes them from libdevice, and so does this file.
 */
#define BUILTIN __attribute__((overloadable, always_inline))

/* name(float) and its vectors, halved down to the scalar. */
#define MAP(name, scalar)                                                                          \
    float scalar(float);                                                                           \
    BUILTIN float name(float x) { return scalar(x); }                                              \
    BUILTIN float2 name(float2 x) { return (float2)(scalar(x.x), scalar(x.y)); }                   \
    BUILTIN float4 name(float4 x) { return (float4)(name(x.lo), name(x.hi)); }                     \
    BUILTIN float8 name(float8 x) { return (float8)(name(x.lo), name(x.hi)); }                     \
    BUILTIN float16 name(float16 x) { return (float16)(name(x.lo), name(x.hi)); }

MAP(exp, __nv_expf)
MAP(exp2, __nv_exp2f)
MAP(log, __nv_logf)
MAP(log2, __nv_log2f)
MAP(sqrt, __nv_sqrtf)
MAP(rsqrt, __nv_rsqrtf)

/* Halves in memory: libclc rounds them in software and its vectors lie in a stack frame; the GPU
 * converts in one instruction. */
#pragma OPENCL EXTENSION cl_khr_fp16 : enable

#define HALF(space)                                                                                \
    BUILTIN float vload_half(size_t i, const space half *p) { return p[i]; }                       \
    BUILTIN void vstore_half_rte(float v, size_t i, space half *p) { p[i] = (half)v; }             \
    HALVES(space, 2, )                                                                             \
    HALVES(space, 4, 2)                                                                            \
    HALVES(space, 8, 4)                                                                            \
    HALVES(space, 16, 8)
#define HALVES(space, n, part)                                                                     \
    BUILTIN float##n vload_half##n(size_t i, const space half *p)                                  \
    {                                                                                              \
        return (float##n)(vload_half##part(2 * i, p), vload_half##part(2 * i + 1, p));             \
    }                                                                                              \
    BUILTIN void vstore_half##n##_rte(float##n v, size_t i, space half *p)                         \
    {                                                                                              \
        vstore_half##part##_rte(v.lo, 2 * i, p);                                                   \
        vstore_half##part##_rte(v.hi, 2 * i + 1, p);                                               \
    }

HALF(global)
HALF(local)
HALF(private)
