/* Threads spin for a while when they wait, as a step has hundreds of short waits, and then sleep, as others want the
   cores too. From one step to the next is longer than from op to op: a token is chosen there. */
#define _GNU_SOURCE
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#define PAUSES_IN_A_STEP 2000
#define PAUSES_BETWEEN_STEPS 10000

/* A number that threads wait to see changed. */
typedef struct {
  atomic_uint value;
  atomic_int sleepers;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
} signal_of;

#define SIGNAL {0, 0, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER}

/* Where threads wait until all are there. */
typedef struct {
  atomic_int arrived;
  signal_of all_here;
} meeting;

static pthread_mutex_t one_run = PTHREAD_MUTEX_INITIALIZER;
static signal_of started = SIGNAL;
static meeting within = {0, SIGNAL}, at_the_end = {0, SIGNAL};
static int threads; /* that were made, beside callers */
static void (*job)(int, int, void *);
static void *job_of;
static int job_count;

static void wait_for_change(signal_of *signal, unsigned seen, int pauses) {
  for (int i = 0; i < pauses; i++) {
    if (atomic_load_explicit(&signal->value, memory_order_acquire) != seen) return;
    pause_once();
  }
  pthread_mutex_lock(&signal->mutex);
  atomic_fetch_add(&signal->sleepers, 1);
  while (atomic_load(&signal->value) == seen) pthread_cond_wait(&signal->changed, &signal->mutex);
  atomic_fetch_sub(&signal->sleepers, 1);
  pthread_mutex_unlock(&signal->mutex);
}

static void change(signal_of *signal) {
  atomic_fetch_add(&signal->value, 1);
  if (atomic_load(&signal->sleepers)) {
    pthread_mutex_lock(&signal->mutex);
    pthread_cond_broadcast(&signal->changed);
    pthread_mutex_unlock(&signal->mutex);
  }
}

static void meet_at(meeting *place, int count) {
  unsigned seen = atomic_load_explicit(&place->all_here.value, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&place->arrived, 1, memory_order_acq_rel) == count - 1) {
    atomic_store_explicit(&place->arrived, 0, memory_order_relaxed);
    change(&place->all_here);
  } else {
    wait_for_change(&place->all_here, seen, PAUSES_IN_A_STEP);
  }
}

void meet(const worker *self) {
  if (self->count > 1) meet_at(&within, self->count);
}

typedef struct { int index; unsigned seen; } birth;

static void *work(void *of) {
  birth born = *(birth *)of;
  free(of);
  for (unsigned seen = born.seen;; seen++) {
    wait_for_change(&started, seen, PAUSES_BETWEEN_STEPS);
    if (born.index < job_count) job(born.index, job_count, job_of);
    meet_at(&at_the_end, threads + 1); /* also who has no part: nobody may still look at a job that is over */
  }
  return NULL;
}

/* A fork waits for the run at hand, so that the child finds nothing half done: no scratch memory that is being
   replaced, no lock of the allocator's that a thread holds which the child lacks. */
static void before_fork(void) { pthread_mutex_lock(&one_run); }
static void after_fork_here(void) { pthread_mutex_unlock(&one_run); }
static void after_fork_in_child(void) { /* it has the caller's thread alone */
  signal_of fresh = SIGNAL;
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  one_run = mutex;
  started = fresh;
  within = at_the_end = (meeting){0, SIGNAL};
  threads = 0;
}

static __attribute__((constructor)) void see_forks(void) {
  pthread_atfork(before_fork, after_fork_here, after_fork_in_child);
}

static void start_threads(int wanted) {
  while (threads + 1 < wanted) {
    birth *born = malloc(sizeof *born);
    pthread_t id;
    if (!born) return;
    *born = (birth){threads + 1, atomic_load(&started.value)};
    if (pthread_create(&id, NULL, work, born)) {
      free(born);
      return;
    }
    pthread_detach(id);
    threads++;
  }
}

void begin_run(void) { pthread_mutex_lock(&one_run); }
void end_run(void) { pthread_mutex_unlock(&one_run); }

void run_on_threads(void (*function)(int, int, void *), void *of, int count) {
  if (count > MOST_THREADS) count = MOST_THREADS;
  start_threads(count);
  if (count > threads + 1) count = threads + 1;
  if (count <= 1) {
    function(0, 1, of);
  } else {
    job = function, job_of = of, job_count = count;
    change(&started);
    function(0, count, of);
    meet_at(&at_the_end, threads + 1);
  }
}
