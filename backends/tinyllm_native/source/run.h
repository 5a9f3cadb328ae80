/* A step: records of calls, run one after the other on all threads. The library's only way in. */
#ifndef TINYLLM_RUN_H
#define TINYLLM_RUN_H

#include "call.h"

#define EXPORT __attribute__((visibility("default")))

/* A call whose arrays and sizes are known when the step begins. */
typedef struct {
  int32_t op;
  int32_t slot[PLACES];    /* where its arrays lie; -1: NULL */
  int64_t offset[PLACES];  /* bytes from there on */
  int32_t symbol[SIZES];   /* which of the step's sizes each size is a multiple of; -1: of 1 */
  int64_t size[SIZES];     /* the factor */
  double number[NUMBERS];
} record;

/* A temporary array: `bytes` for each unit of a size of the step. Those of one `place` follow one another there. */
typedef struct {
  int32_t symbol;
  int32_t unused;
  int64_t bytes;
} temporary;

/* Run a step.

   arrays: of the first slots; temporaries have those that follow. sizes: of the step. seconds: filled with the time of
   each record where it is not NULL. Returns 0, or 1 where there is not enough memory. */
EXPORT int tinyllm_run(const record *records, int count, void *const *arrays, int array_count,
                       const temporary *temporaries,
                       int temporary_count, const int64_t *sizes, int threads, double *seconds);

#endif
