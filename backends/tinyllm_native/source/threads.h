/* A team of threads that runs one function at a time, on all of them. */
#ifndef TINYLLM_THREADS_H
#define TINYLLM_THREADS_H

#include <stdatomic.h>
#include <stdint.h>

#define MOST_THREADS 256

/* One thread's part in a run. */
typedef struct {
  int index, count;   /* which of how many threads */
  atomic_int *next;   /* what of the op at hand was taken; 0 when it begins */
  char *own;          /* scratch memory of this thread */
  char *shared;       /* scratch memory of all of them */
} worker;

/* Runs come one after the other: who is between these two is alone. */
void begin_run(void);
void end_run(void);

/* Run a function on `count` threads, the caller's being number 0, and return when all are done; within a run. */
void run_on_threads(void (*function)(int index, int count, void *of), void *of, int count);

/* Wait until all threads of the run are here. */
void meet(const worker *self);

/* The next piece of the op at hand that nobody took yet. */
static inline int take(const worker *self) { return atomic_fetch_add_explicit(self->next, 1, memory_order_relaxed); }

#endif
