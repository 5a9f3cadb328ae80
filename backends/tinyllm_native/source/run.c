#define _GNU_SOURCE
#include "run.h"

#include <stdlib.h>

#include "ops.h"

/* Numbers below which an op is done by one thread: the others would come too late. */
#define FEW 16384

typedef struct {
  const record *records;
  int count;
  char **slots;
  const int64_t *sizes;
  atomic_int *taken;
  char *own, *shared;
  int64_t own_bytes;
  int threads;
  double *seconds;
} step;

/* Memory that is kept from step to step, as new pages cost more than many an op. */
typedef struct {
  char *at;
  int64_t bytes;
} kept;

static kept of_slots, of_taken, of_temporaries, of_scratch;

static char *at_least(kept *memory, int64_t bytes) {
  if (memory->bytes < bytes) {
    free(memory->at);
    memory->at = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
    memory->bytes = memory->at ? bytes : 0;
  }
  return memory->at;
}

static call resolved(const step *s, int number) {
  const record *r = &s->records[number];
  call c;
  for (int i = 0; i < PLACES; i++) c.at[i] = r->slot[i] < 0 ? NULL : s->slots[r->slot[i]] + r->offset[i];
  for (int i = 0; i < SIZES; i++) c.size[i] = r->symbol[i] < 0 ? r->size[i] : r->size[i] * s->sizes[r->symbol[i]];
  memcpy(c.number, r->number, sizeof c.number);
  return c;
}

static int is_alone(const step *s, int number, const call *c) {
  const op *of = &OPS[s->records[number].op];
  return of->work && of->work(c) < FEW;
}

static void take_part(int index, int count, void *of) {
  const step *s = of;
  double before = s->seconds && !index ? now() : 0;
  call c = resolved(s, 0);
  int alone = is_alone(s, 0, &c);
  for (int i = 0; i < s->count; i++) {
    worker self = {index, count, &s->taken[i * (s->threads + 1)], s->own + s->own_bytes * index, s->shared};
    if (!alone) {
      OPS[s->records[i].op].run(&c, &self);
    } else if (!index) {
      self.count = 1;
      OPS[s->records[i].op].run(&c, &self);
    }
    int before_alone = alone;
    if (i + 1 < s->count) {
      c = resolved(s, i + 1);
      alone = is_alone(s, i + 1, &c);
    }
    self.count = count;
    if (i + 1 < s->count && !(before_alone && alone) && count > 1) meet(&self);
    if (s->seconds && !index) {
      double after = now();
      s->seconds[i] = after - before;
      before = after;
    }
  }
}

static int run(const record *records, int count, void *const *arrays, int array_count, const temporary *temporaries,
               int temporary_count, const int64_t *sizes, int threads, double *seconds) {
  char **slots = (char **)at_least(&of_slots, (int64_t)sizeof(char *) * (array_count + temporary_count));
  atomic_int *taken = (atomic_int *)at_least(&of_taken, (int64_t)sizeof(atomic_int) * count * (threads + 1));
  int64_t bytes = 0;
  for (int i = 0; i < temporary_count; i++)
    bytes += (temporaries[i].bytes * sizes[temporaries[i].symbol] + 127) / 64 * 64;
  char *memory = at_least(&of_temporaries, bytes + 64);
  if (!slots || !taken || !memory) return 1;
  for (int i = 0; i < array_count; i++) slots[i] = arrays[i];
  for (int i = 0; i < temporary_count; i++) {
    slots[array_count + i] = memory;
    memory += (temporaries[i].bytes * sizes[temporaries[i].symbol] + 127) / 64 * 64;
  }
  for (int i = 0; i < count * (threads + 1); i++) atomic_init(&taken[i], 0);
  step s = {records, count, slots, sizes, taken, NULL, NULL, 0, threads, seconds};
  int64_t shared_bytes = 0;
  for (int i = 0; i < count; i++) {
    const op *of = &OPS[records[i].op];
    if (!of->scratch) continue;
    const call c = resolved(&s, i);
    int64_t own = 0, shared = 0;
    of->scratch(&c, threads, &own, &shared);
    s.own_bytes = own > s.own_bytes ? own : s.own_bytes;
    shared_bytes = shared > shared_bytes ? shared : shared_bytes;
  }
  s.own_bytes = (s.own_bytes + 127) / 64 * 64;
  s.shared = at_least(&of_scratch, shared_bytes + 64 + s.own_bytes * threads);
  if (!s.shared) return 1;
  s.own = s.shared + (shared_bytes + 63) / 64 * 64;
  run_on_threads(take_part, &s, threads);
  return 0;
}

int tinyllm_run(const record *records, int count, void *const *arrays, int array_count, const temporary *temporaries,
                int temporary_count, const int64_t *sizes, int threads, double *seconds) {
  if (!count) return 0;
  begin_run();
  int failed = run(records, count, arrays, array_count, temporaries, temporary_count, sizes, threads, seconds);
  end_run();
  return failed;
}
