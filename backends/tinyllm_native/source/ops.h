/* All ops, by number. The order is that of `OPS` in the package's `records.py`. */
#ifndef TINYLLM_OPS_H
#define TINYLLM_OPS_H

#include "call.h"

typedef struct {
  op_function *run;
  op_scratch *scratch;  /* NULL: it wants none */
  /* Numbers it touches, for ops that one thread does alone where they are few; NULL: all threads take part. */
  int64_t (*work)(const call *c);
} op;

op_function linear, pack, embedding, rms_norm, layer_norm, add_rows, mul_rows, scale_rows, softcap, sigmoid, silu,
    gelu, swiglu, geglu, softmax, rope_rotate, rope_angles, kv_append, paged_attention, moe_router, moe_experts,
    short_conv, gated_delta, all_reduce;
op_scratch linear_scratch, pack_scratch, embedding_scratch, attention_scratch, moe_router_scratch, moe_experts_scratch,
    short_conv_scratch, gated_delta_scratch, all_reduce_scratch;
int64_t work_on_rows(const call *c), work_of_delta(const call *c);

static const op OPS[] = {
    {linear, linear_scratch, 0},
    {pack, pack_scratch, 0},
    {embedding, embedding_scratch, work_on_rows},
    {rms_norm, 0, work_on_rows},
    {layer_norm, 0, work_on_rows},
    {add_rows, 0, work_on_rows},
    {mul_rows, 0, work_on_rows},
    {scale_rows, 0, work_on_rows},
    {softcap, 0, work_on_rows},
    {sigmoid, 0, work_on_rows},
    {silu, 0, work_on_rows},
    {gelu, 0, work_on_rows},
    {swiglu, 0, work_on_rows},
    {geglu, 0, work_on_rows},
    {softmax, 0, work_on_rows},
    {rope_rotate, 0, work_on_rows},
    {rope_angles, 0, work_on_rows},
    {kv_append, 0, work_on_rows},
    {paged_attention, attention_scratch, 0},
    {moe_router, moe_router_scratch, work_on_rows},
    {moe_experts, moe_experts_scratch, 0},
    {short_conv, short_conv_scratch, work_on_rows},
    {gated_delta, gated_delta_scratch, work_of_delta},
    {all_reduce, all_reduce_scratch, work_on_rows},
};

#endif
