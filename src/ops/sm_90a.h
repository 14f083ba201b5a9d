/* Whether kernels for target sm_90a work here. Only a build and a run can tell: whether a driver
 * takes rewritten PTX is nowhere promised. */
#ifndef CLMLA_OPS_SM_90A_H
#define CLMLA_OPS_SM_90A_H

#include "ocl/context.h"

/* Where they were asked for and not tried yet: computes small products and attention of known results
 * with every tile of cl/nvidia/projection_wgmma.cl and with cl/nvidia/attention_wgmma.cl, waits, and
 * has the context accept or refuse the kernels of each. In OpenCL contexts of their own. Emulated
 * where the device has no PTX. Any thread. */
void mla__sm_90a_probe(clmla_context *context);

#endif
