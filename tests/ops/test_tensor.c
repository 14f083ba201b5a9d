/* Checked views: dtypes, strides, spans, overlap. Strides and offsets in elements unless _bytes. */
#include "clmla.h"
#include "ops/tensor.h"
#include "support/device.h"
#include "support/support.h"

enum { BUFFER_BYTES = 4096 };

static clmla_context *context;
static cl_mem buffer; /* BUFFER_BYTES, no canaries: the end of the buffer is what is tested */

typedef struct view_case {
    const char *name;
    uint64_t shape[4];
    int rank;
    clmla_tensor tensor; /* the buffer is put in */
    bool no_buffer;
    clmla_status status;
    const char *says;       /* part of the detail on failure */
    uint64_t offset;        /* expected on success */
    uint64_t strides[3];    /* expected on success, the first rank - 1 */
    clmla_dtype view_dtype; /* expected on success; 0: bf16 */
} view_case;

#define BF16 .dtype = CLMLA_DTYPE_BF16
#define F32 .dtype = CLMLA_DTYPE_F32
#define HUGE_64 0xffffffffffffffffu

static const view_case cases[] = {
    {.name = "a vector that fills the buffer", .shape = {2048}, .rank = 1},
    {.name = "one element more does not fit",
     .shape = {2049},
     .rank = 1,
     .status = CLMLA_BUFFER_TOO_SMALL,
     .says = "op: x reaches byte 4098 of a buffer of 4096"},
    {.name = "an offset in bytes becomes elements of the dtype",
     .shape = {1},
     .rank = 1,
     .tensor = {.offset_bytes = 4092, F32},
     .offset = 1023,
     .view_dtype = CLMLA_DTYPE_F32},
    {.name = "an offset counts towards the end",
     .shape = {2},
     .rank = 1,
     .tensor = {.offset_bytes = 4092, F32},
     .status = CLMLA_BUFFER_TOO_SMALL,
     .says = "byte 4100"},
    {.name = "an offset that is not a multiple of the element size",
     .shape = {1},
     .rank = 1,
     .tensor = {.offset_bytes = 2, F32},
     .status = CLMLA_INVALID_STRIDE,
     .says = "offset_bytes 2"},
    {.name = "dense strides of rank 2", .shape = {3, 5}, .rank = 2, .strides = {5}},
    {.name = "dense strides of rank 3", .shape = {3, 5, 7}, .rank = 3, .strides = {35, 7}},
    {.name = "dense strides of rank 4", .shape = {2, 3, 5, 7}, .rank = 4, .strides = {105, 35, 7}},
    {.name = "an outer dense stride follows a given inner one",
     .shape = {3, 5, 7},
     .rank = 3,
     .tensor = {.strides = {0, 10}},
     .strides = {50, 10}},
    {.name = "rows may touch: the last row needs its elements, not its stride",
     .shape = {4, 512},
     .rank = 2,
     .tensor = {.strides = {512}},
     .strides = {512}},
    {.name = "a slice of columns at the end of the buffer",
     .shape = {4, 100},
     .rank = 2,
     .tensor = {.offset_bytes = 824, .strides = {512}},
     .offset = 412,
     .strides = {512}},
    {.name = "the same slice one column further right",
     .shape = {4, 100},
     .rank = 2,
     .tensor = {.offset_bytes = 826, .strides = {512}},
     .status = CLMLA_BUFFER_TOO_SMALL,
     .says = "byte 4098"},
    {.name = "rows that overlap",
     .shape = {4, 100},
     .rank = 2,
     .tensor = {.strides = {99}},
     .status = CLMLA_INVALID_STRIDE,
     .says = "op: x: strides[0] is 99 < 100"},
    {.name = "inner rows that overlap",
     .shape = {2, 4, 100},
     .rank = 3,
     .tensor = {.strides = {1000, 99}},
     .status = CLMLA_INVALID_STRIDE,
     .says = "strides[1] is 99 < 100"},
    {.name = "an outer stride inside the span of what it steps over",
     .shape = {2, 4, 100},
     .rank = 3,
     .tensor = {.strides = {399}},
     .status = CLMLA_INVALID_STRIDE,
     .says = "strides[0] is 399 < 400"},
    {.name = "an outer stride may end where the last inner row ends",
     .shape = {2, 3, 100},
     .rank = 3,
     .tensor = {.strides = {340, 120}},
     .strides = {340, 120}},
    {.name = "the stride of a dimension of one is never taken",
     .shape = {1, 100},
     .rank = 2,
     .tensor = {.strides = {3}},
     .strides = {3}},
    {.name = "nor when it is absurdly large, and dense dimensions outside do not see it",
     .shape = {2, 1, 100},
     .rank = 3,
     .tensor = {.strides = {0, HUGE_64}},
     .strides = {100, HUGE_64}},
    {.name = "strides beyond the rank do not matter",
     .shape = {3, 5},
     .rank = 2,
     .tensor = {.strides = {6, 1, 1}},
     .strides = {6}},
    {.name = "a stride so large that the span wraps round",
     .shape = {3, 4},
     .rank = 2,
     .tensor = {.strides = {0x8000000000000000u}},
     .status = CLMLA_BUFFER_TOO_SMALL,
     .says = "more than any buffer holds"},
    {.name = "a span in elements that wraps round in bytes",
     .shape = {2, 4},
     .rank = 2,
     .tensor = {.strides = {0x7ffffffffffffffeu}},
     .status = CLMLA_BUFFER_TOO_SMALL,
     .says = "2^64"},
    {.name = "an offset that wraps round",
     .shape = {2},
     .rank = 1,
     .tensor = {.offset_bytes = HUGE_64 - 3, F32},
     .status = CLMLA_BUFFER_TOO_SMALL,
     .says = "2^64"},
    {.name = "a shape so large that dense strides wrap round",
     .shape = {0x100000000u, 0x100000000u, 2},
     .rank = 3,
     .status = CLMLA_BUFFER_TOO_SMALL,
     .says = "more than any buffer holds"},
    {.name = "a dtype outside the mask",
     .shape = {1},
     .rank = 1,
     .tensor = {.dtype = CLMLA_DTYPE_I32},
     .status = CLMLA_INVALID_TENSOR_DTYPE,
     .says = "op: x has dtype i32"},
    {.name = "a dtype that does not exist",
     .shape = {1},
     .rank = 1,
     .tensor = {.dtype = 5},
     .status = CLMLA_INVALID_TENSOR_DTYPE,
     .says = "(5)"},
    {.name = "a negative dtype",
     .shape = {1},
     .rank = 1,
     .tensor = {.dtype = -1},
     .status = CLMLA_INVALID_TENSOR_DTYPE,
     .says = "(-1)"},
    {.name = "no buffer",
     .shape = {1},
     .rank = 1,
     .no_buffer = true,
     .status = CLMLA_INVALID_ARGUMENT,
     .says = "op: x has no buffer"},
    {.name = "nothing to hold needs no buffer", .shape = {0, 7}, .rank = 2, .no_buffer = true},
    {.name = "an empty inner dimension is empty too",
     .shape = {7, 0},
     .rank = 2,
     .tensor = {.offset_bytes = 1 << 20}},
    {.name = "an empty tensor's dtype is checked all the same",
     .shape = {0, 7},
     .rank = 2,
     .no_buffer = true,
     .tensor = {.dtype = CLMLA_DTYPE_I32},
     .status = CLMLA_INVALID_TENSOR_DTYPE,
     .says = "op: x"},
};

static void check_view(const view_case *c)
{
    clmla_tensor tensor = c->tensor;
    tensor.buffer = c->no_buffer ? NULL : buffer;
    mla__tensor_spec spec = {
        .name = "op: x", .rank = c->rank, .dtypes = MLA__FLOATS, .otherwise = CLMLA_DTYPE_BF16};
    memcpy(spec.shape, c->shape, sizeof spec.shape);
    mla__view view, untouched;
    memset(&view, 0xff, sizeof view);
    memset(&untouched, 0xff, sizeof untouched);
    test_clear_notify();
    const clmla_status status = mla__view_make(context, &tensor, &spec, &view);
    if (status != c->status)
        fail_msg("%s: %s (%s)", c->name, clmla_status_name(status), test_last_notify());
    if (status != CLMLA_SUCCESS) {
        if (strstr(test_last_notify(), c->says) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", c->name, test_last_notify(), c->says);
        assert_memory_equal(&view, &untouched, sizeof view);
        return;
    }
    assert_string_equal(test_last_notify(), "");
    assert_ptr_equal(view.buffer, tensor.buffer);
    assert_int_equal(view.dtype, c->view_dtype == 0 ? CLMLA_DTYPE_BF16 : c->view_dtype);
    if (view.offset != c->offset)
        fail_msg("%s: offset %llu", c->name, (unsigned long long)view.offset);
    for (int i = 0; i < c->rank - 1; i++)
        if (view.strides[i] != c->strides[i])
            fail_msg("%s: strides[%d] is %llu", c->name, i, (unsigned long long)view.strides[i]);
}

static void views_are_checked(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_view(&cases[i]);
}

static void a_buffer_of_another_context_is_refused(void **state)
{
    (void)state;
    const mla__tensor_spec spec = {.name = "op: x",
                                   .shape = {1},
                                   .rank = 1,
                                   .dtypes = MLA__FLOATS,
                                   .otherwise = CLMLA_DTYPE_BF16};
    cl_int status = CL_SUCCESS;
    const test_device *on = test_device_get();
    const cl_context other = clCreateContext(NULL, 1, &on->id, NULL, NULL, &status);
    assert_int_equal(status, CL_SUCCESS);
    const cl_mem stranger = clCreateBuffer(other, CL_MEM_READ_WRITE, 64, NULL, &status);
    assert_int_equal(status, CL_SUCCESS);
    mla__view view;
    const clmla_tensor tensor = {.buffer = stranger};
    assert_int_equal(mla__view_make(context, &tensor, &spec, &view), CL_INVALID_CONTEXT);
    assert_non_null(strstr(test_last_notify(), "op: x"));
    clReleaseMemObject(stranger);
    clReleaseContext(other);
}

/* A view of `span` elements. */
typedef struct placed {
    enum { THE_BUFFER, OTHER_BUFFER, NO_BUFFER } in;
    uint64_t offset, span;
    clmla_dtype dtype;
} placed;

static const struct {
    const char *name;
    placed a, b;
    bool overlap;
} pairs[] = {
    {"the same", {THE_BUFFER, 8, 4, BF16}, {THE_BUFFER, 8, 4, BF16}, true},
    {"b begins where a ends", {THE_BUFFER, 8, 4, BF16}, {THE_BUFFER, 12, 4, BF16}, false},
    {"b begins at a's last element", {THE_BUFFER, 8, 4, BF16}, {THE_BUFFER, 11, 4, BF16}, true},
    {"f32 elements 4.. are bytes 16.., bf16 elements 7 are bytes 14..15",
     {THE_BUFFER, 7, 1, BF16},
     {THE_BUFFER, 4, 1, F32},
     false},
    {"and bf16 elements 8 are bytes 16..17",
     {THE_BUFFER, 8, 1, BF16},
     {THE_BUFFER, 4, 1, F32},
     true},
    {"b inside a", {THE_BUFFER, 0, 100, F32}, {THE_BUFFER, 50, 1, F32}, true},
    {"other buffers", {THE_BUFFER, 0, 100, F32}, {OTHER_BUFFER, 0, 100, F32}, false},
    {"nothing overlaps an empty view", {THE_BUFFER, 10, 0, F32}, {THE_BUFFER, 0, 100, F32}, false},
    {"no buffers", {NO_BUFFER, 0, 4, F32}, {NO_BUFFER, 0, 4, F32}, false},
};

static mla__view view_of(const placed *p)
{
    const cl_mem buffers[] = {
        [THE_BUFFER] = buffer,
        [OTHER_BUFFER] = (cl_mem)&context, /* only compared */
        [NO_BUFFER] = NULL,
    };
    return (mla__view){.buffer = buffers[p->in], .offset = p->offset, .dtype = p->dtype};
}

static void overlap_is_counted_in_bytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        const placed *a = &pairs[i].a, *b = &pairs[i].b;
        const mla__view view_a = view_of(a), view_b = view_of(b);
        if (mla__views_overlap(&view_a, a->span, &view_b, b->span) != pairs[i].overlap ||
            mla__views_overlap(&view_b, b->span, &view_a, a->span) != pairs[i].overlap)
            fail_msg("%s: expected %d", pairs[i].name, pairs[i].overlap);
    }
}

static int set_up(void **state)
{
    (void)state;
    cl_int status = CL_SUCCESS;
    context = test_context(CLMLA_KERNELS_AUTO, CLMLA_PROJECTION_AUTO);
    buffer =
        clCreateBuffer(test_device_get()->context, CL_MEM_READ_WRITE, BUFFER_BYTES, NULL, &status);
    return status;
}

static int tear_down(void **state)
{
    (void)state;
    clReleaseMemObject(buffer);
    clmla_context_release(context);
    test_device_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views_are_checked),
        cmocka_unit_test(a_buffer_of_another_context_is_refused),
        cmocka_unit_test(overlap_is_counted_in_bytes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
