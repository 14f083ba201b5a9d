#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, MAP_NORESERVE */

#include "support/sparse.h"

#include <string.h>
#include <sys/mman.h>

#include "support/support.h"

enum { MAX_REGIONS = 8, REAL_BYTES = 1 << 16 };

static sparse regions[MAX_REGIONS];

cl_int __real_clGetMemObjectInfo(cl_mem buffer, cl_mem_info what, size_t bytes, void *value,
                                 size_t *needed);
cl_int __wrap_clGetMemObjectInfo(cl_mem buffer, cl_mem_info what, size_t bytes, void *value,
                                 size_t *needed);

cl_int __wrap_clGetMemObjectInfo(cl_mem buffer, cl_mem_info what, size_t bytes, void *value,
                                 size_t *needed)
{
    for (int i = 0; i < MAX_REGIONS; i++)
        if (regions[i].buffer == buffer && buffer != NULL && what == CL_MEM_SIZE) {
            memcpy(value, &regions[i].bytes, sizeof(size_t));
            return CL_SUCCESS;
        }
    return __real_clGetMemObjectInfo(buffer, what, bytes, value, needed);
}

typedef struct range {
    void *data;
    size_t bytes;
} range;

static void CL_CALLBACK unmap(cl_mem buffer, void *user)
{
    range *addresses = user;
    (void)buffer;
    (void)munmap(addresses->data, addresses->bytes);
    free(addresses);
}

/* The driver may use the memory until it has deleted the object, which can be later. */
static void unmap_with(const sparse *s)
{
    range *addresses = malloc(sizeof *addresses);
    assert_non_null(addresses);
    *addresses = (range){s->data, s->bytes};
    assert_int_equal(clSetMemObjectDestructorCallback(s->buffer, unmap, addresses), CL_SUCCESS);
}

/* Whether what a command writes is there for the host, and the other way round. */
static bool is_host_memory(const sparse *s)
{
    const cl_command_queue queue = test_device_get()->queue;
    unsigned char to[4] = {1, 2, 3, 4}, from[4] = {0};
    assert_int_equal(clEnqueueWriteBuffer(queue, s->buffer, CL_TRUE, 0, 4, to, 0, NULL, NULL),
                     CL_SUCCESS);
    if (memcmp(s->data, to, 4) != 0)
        return false;
    s->data[2] = 9;
    assert_int_equal(clEnqueueReadBuffer(queue, s->buffer, CL_TRUE, 0, 4, from, 0, NULL, NULL),
                     CL_SUCCESS);
    return from[2] == 9;
}

const char *sparse_create(size_t bytes, sparse *out)
{
    const test_device *on = test_device_get();
    cl_device_type type = 0;
    cl_int status = CL_SUCCESS;
    int place = 0;
    assert_int_equal(clGetDeviceInfo(on->id, CL_DEVICE_TYPE, sizeof type, &type, NULL), CL_SUCCESS);
    if ((type & CL_DEVICE_TYPE_CPU) == 0)
        return "the device has memory of its own";
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        return "the system does not give so many addresses";
    while (place < MAX_REGIONS && regions[place].buffer != NULL)
        place++;
    assert_true(place < MAX_REGIONS);
    sparse made = {.data = data, .bytes = bytes};
    made.buffer = clCreateBuffer(on->context, CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, REAL_BYTES,
                                 data, &status);
    assert_int_equal(status, CL_SUCCESS);
    unmap_with(&made);
    if (!is_host_memory(&made)) {
        (void)clReleaseMemObject(made.buffer);
        return "the device copies buffers";
    }
    regions[place] = *out = made;
    return NULL;
}

void sparse_release(sparse *region)
{
    if (region->buffer == NULL)
        return;
    for (int i = 0; i < MAX_REGIONS; i++)
        if (regions[i].buffer == region->buffer)
            regions[i] = (sparse){.buffer = NULL};
    (void)clReleaseMemObject(region->buffer);
    *region = (sparse){.buffer = NULL};
}
