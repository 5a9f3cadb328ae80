/* What ops on rows and on elements share: a thread's part, and vectors of numbers of any dtype. */
#ifndef TINYLLM_ROWS_H
#define TINYLLM_ROWS_H

#include "call.h"

enum { ROWS, COLUMNS }; /* the first sizes of all of them */

/* A thread's part of the rows. */
#define MY_ROWS(r) \
  for (int64_t r = c->size[ROWS] * self->index / self->count; r < c->size[ROWS] * (self->index + 1) / self->count; r++)

INLINE floats floats_at(const char *from, int dtype, int64_t at) {
  if (dtype == OF_FLOAT32) return load((const float *)from + at);
  return dtype == OF_FLOAT16 ? load_float16((const uint16_t *)from + at) : load_bfloat16((const uint16_t *)from + at);
}
INLINE void put_floats(char *to, int dtype, int64_t at, floats x) {
  if (dtype == OF_FLOAT32) {
    store((float *)to + at, x);
    return;
  }
  float numbers[LANES];
  store(numbers, x);
  write_floats(to, dtype, at, LANES, numbers);
}
/* The first `count` numbers, and 0 in the other lanes. */
INLINE floats some_at(const char *from, int dtype, int64_t at, int64_t count) {
  float numbers[LANES] = {0};
  for (int64_t i = 0; i < count; i++) numbers[i] = read_float(from, dtype, at + i);
  return load(numbers);
}
INLINE void put_some(char *to, int dtype, int64_t at, int64_t count, floats x) {
  float numbers[LANES];
  store(numbers, x);
  write_floats(to, dtype, at, count, numbers);
}

/* Runs a statement for each 16 columns, the first of them `i`, and once more for those that are left, `left` of them:
   GET and PUT read and write either. */
#define GET(from, dtype) (left < LANES ? some_at(from, dtype, i, left) : floats_at(from, dtype, i))
#define PUT(to, dtype, x)                                \
  if (left < LANES) put_some(to, dtype, i, left, x);     \
  else put_floats(to, dtype, i, x)
#define COLUMNS_FROM(from, to) \
  for (int64_t i = (from), left = (to) - i < LANES ? (to) - i : LANES; left > 0; \
       i += LANES, left = (to) - i < LANES ? (to) - i : LANES)
#define COLUMNS_OF(columns) COLUMNS_FROM(0, columns)

#endif
