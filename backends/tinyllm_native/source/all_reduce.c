/* all_reduce: the sum of what several processes of this machine hold, through memory that they share. */
#define _GNU_SOURCE
#include <sched.h>
#include <time.h>

#include "ops.h"
#include "rows.h"

enum { X, Y, MEMORY, ASK };                                  /* at */
enum { TYPE = 2, RANK, RANKS, LINE, PART };                  /* size, after rows and columns */
enum { PAUSES = 5000, YIELDS = 2000, NAPS = 100, NAP = 100000 }; /* how a process waits; a nap in ns */

/* Asked now and then by who waits, and where another gave up: not 0 where the wait is in vain. It is Python's, so that
   only the thread that called the library may ask: that is number 0. */
typedef int question(double seconds);

/* The memory: lines that begin with a counter, the first says whether somebody gave up, the others how often each rank
   came to a meeting; then a place for the numbers of each rank, for even meetings and for odd ones. Ranks that run
   Python keep to the same (tinyllm/parallel/shared_memory.py). */
typedef struct {
  char *memory;
  int64_t line, part, rank, ranks;
} group;

static group group_of(const call *c) {
  return (group){c->at[MEMORY], c->size[LINE], c->size[PART], c->size[RANK], c->size[RANKS]};
}

static _Atomic int64_t *gave_up(const group *g) { return (_Atomic int64_t *)g->memory; }
static _Atomic int64_t *came(const group *g, int64_t rank) {
  return (_Atomic int64_t *)(g->memory + (rank + 1) * g->line);
}
static float *place_of(const group *g, int64_t meeting, int64_t rank) {
  return (float *)(g->memory + (g->ranks + 1) * g->line + (meeting % 2 * g->ranks + rank) * g->part);
}

static int all_came(const group *g, int64_t meeting) {
  for (int64_t rank = 0; rank < g->ranks; rank++)
    if (atomic_load_explicit(came(g, rank), memory_order_acquire) < meeting) return 0;
  return 1;
}

/* Say that this rank is at a meeting, and wait for the others. Returns whether it was in vain. */
static int come_to(const group *g, int64_t meeting, question *ask) {
  if (atomic_load(gave_up(g)) && ask(0)) return 1;
  atomic_store_explicit(came(g, g->rank), meeting, memory_order_release);
  double began = 0;
  for (int64_t tries = 0; !all_came(g, meeting); tries++) {
    if (tries < PAUSES) {
      pause_once();
      continue;
    }
    if (!began) began = now();
    int asks = atomic_load(gave_up(g)) != 0;
    if (tries < PAUSES + YIELDS) {
      sched_yield();
    } else {
      asks |= tries % NAPS == 0;
      nanosleep(&(struct timespec){0, NAP}, NULL);
    }
    if (asks && ask(now() - began)) {
      atomic_store(gave_up(g), 1);
      return 1;
    }
  }
  return 0;
}

/* Numbers `from` to `to - 1` of those that meet, which are those of x and y from `first` on, added up. */
static void add_up(const call *c, const group *g, int64_t meeting, int64_t first, int64_t from, int64_t to) {
  const int type = (int)c->size[TYPE];
  COLUMNS_FROM(from, to) {
    floats total = zeros();
    for (int64_t rank = 0; rank < g->ranks; rank++) {
      floats part = g->memory ? GET((const char *)place_of(g, meeting, rank), OF_FLOAT32)
                              : GET((const char *)c->at[X] + first * (type ? 2 : 4), type);
      total = rank ? add(total, part) : part;
    }
    PUT((char *)c->at[Y] + first * (type ? 2 : 4), type, total);
  }
}

void all_reduce_scratch(const call *c, int threads, int64_t *own, int64_t *shared) { *shared = 64; }

/* Each thread writes some numbers of this rank, number 0 meets the other ranks, and each thread adds up as many. Without
   memory all ranks hold what this one holds. */
void all_reduce(const call *c, const worker *self) {
  const group g = group_of(c);
  const int type = (int)c->size[TYPE];
  const int64_t count = c->size[ROWS] * c->size[COLUMNS], most = g.memory ? g.part / (int64_t)sizeof(float) : count;
  int64_t meeting = g.memory ? atomic_load_explicit(came(&g, g.rank), memory_order_relaxed) : 0;
  volatile int *in_vain = (volatile int *)self->shared;
  for (int64_t first = 0; first < count || (!first && g.memory); first += most) {
    const int64_t numbers = count - first < most ? count - first : most, vectors = (numbers + LANES - 1) / LANES;
    const int64_t from = vectors * self->index / self->count * LANES;
    const int64_t end = vectors * (self->index + 1) / self->count * LANES, to = end < numbers ? end : numbers;
    if (g.memory) {
      meeting++;
      const char *x = (const char *)c->at[X] + (first + from) * (type ? 2 : 4);
      read_floats(x, type, to > from ? to - from : 0, place_of(&g, meeting, g.rank) + from);
      meet(self);
      if (!self->index) *in_vain = come_to(&g, meeting, (question *)c->at[ASK]);
      meet(self);
      if (*in_vain) return;
    }
    add_up(c, &g, meeting, first, from, to);
  }
}
