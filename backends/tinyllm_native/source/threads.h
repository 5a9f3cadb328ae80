/* A team of threads that runs one function at a time, on all of them. */
#ifndef TINYLLM_THREADS_H
#define TINYLLM_THREADS_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#define MOST_THREADS 256

/* One thread's part in a run. */
typedef struct {
  int index, count;   /* which of how many threads */
  atomic_int *next;   /* what of the op at hand was taken, 0 when it begins: in all, then of each thread's share */
  char *own;          /* scratch memory of this thread */
  char *shared;       /* scratch memory of all of them */
} worker;

/* What a thread does while it waits without giving its core away. */
static inline void pause_once(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Seconds on a clock that only goes forward. */
static inline double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Runs come one after the other: who is between these two is alone. */
void begin_run(void);
void end_run(void);

/* Run a function on `count` threads, the caller's being number 0, and return when all are done; within a run. */
void run_on_threads(void (*function)(int index, int count, void *of), void *of, int count);

/* Wait until all threads of the run are here. */
void meet(const worker *self);

/* The next piece of the op at hand that nobody took yet. */
static inline int take(const worker *self) { return atomic_fetch_add_explicit(self->next, 1, memory_order_relaxed); }

/* The next of so many pieces, of this thread's own share as long as there are any, else of another's; -1: none is left.
   Shares are neighbours, so that a thread reads on where it read before. */
static inline int64_t take_near(const worker *self, int64_t pieces) {
  for (int i = 0; i < self->count; i++) {
    const int whose = (self->index + i) % self->count;
    const int64_t begin = pieces * whose / self->count, end = pieces * (whose + 1) / self->count;
    const int64_t piece = begin + atomic_fetch_add_explicit(&self->next[1 + whose], 1, memory_order_relaxed);
    if (piece < end) return piece;
  }
  return -1;
}

/* Let shares be taken once more: called by all threads between two meetings. */
static inline void share_anew(const worker *self) {
  atomic_store_explicit(&self->next[1 + self->index], 0, memory_order_relaxed);
}

#endif
