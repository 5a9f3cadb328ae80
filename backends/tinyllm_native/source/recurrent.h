/* What ops with recurrent states share: a row of the state for each sequence, written in place. */
#ifndef TINYLLM_RECURRENT_H
#define TINYLLM_RECURRENT_H

#include "rows.h"

INLINE int64_t bytes_of(int dtype) { return dtype == OF_FLOAT32 ? 4 : 2; }

/* The new tokens of a sequence, and its row of the state. */
typedef struct {
  int64_t first, count, row;
  int begins; /* with a state of zeros */
} sequence;

INLINE sequence sequence_of(const int32_t *q_start, const int32_t *kv_len, const int32_t *state_rows, int64_t number) {
  const int64_t count = q_start[number + 1] - q_start[number];
  return (sequence){q_start[number], count, state_rows[number], kv_len[number] == count};
}

#endif
