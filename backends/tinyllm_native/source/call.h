/* A call of an op: pointers and sizes, as its function reads them, and what may come with them. */
#ifndef TINYLLM_CALL_H
#define TINYLLM_CALL_H

#include "threads.h"
#include "vector.h"

#define PLACES 12
#define SIZES 24
#define NUMBERS 4

typedef struct {
  void *at[PLACES];      /* inputs, then outputs; NULL where an optional one is not given */
  int64_t size[SIZES];   /* sizes, strides in bytes, dtypes and attributes */
  double number[NUMBERS];
} call;

typedef void op_function(const call *c, const worker *self);
/* Bytes of scratch memory that a call wants: of each thread, and of all of them. */
typedef void op_scratch(const call *c, int threads, int64_t *own, int64_t *shared);

enum { OF_FLOAT32, OF_FLOAT16, OF_BFLOAT16 };

INLINE float read_float(const void *from, int dtype, int64_t at) {
  if (dtype == OF_FLOAT32) return ((const float *)from)[at];
  return dtype == OF_FLOAT16 ? float16(((const uint16_t *)from)[at]) : bfloat16(((const uint16_t *)from)[at]);
}
INLINE void read_floats(const void *from, int dtype, int64_t count, float *to) {
  if (dtype == OF_FLOAT32) {
    memcpy(to, from, (size_t)count * 4);
    return;
  }
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    store(to + i, dtype == OF_FLOAT16
                      ? load_float16((const uint16_t *)from + i)
                      : load_bfloat16((const uint16_t *)from + i));
  for (; i < count; i++) to[i] = read_float(from, dtype, i);
}
INLINE void write_floats(void *to, int dtype, int64_t at, int64_t count, const float *from) {
  if (dtype == OF_FLOAT32) {
    memcpy((float *)to + at, from, (size_t)count * 4);
    return;
  }
  uint16_t *halves = (uint16_t *)to + at;
  int64_t i = 0;
  if (dtype == OF_FLOAT16)
    for (; i + LANES <= count; i += LANES) store_float16(halves + i, load(from + i));
  for (; i < count; i++) halves[i] = dtype == OF_FLOAT16 ? to_float16(from[i]) : to_bfloat16(from[i]);
}

#endif
