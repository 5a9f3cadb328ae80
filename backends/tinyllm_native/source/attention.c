/* paged_attention: queries of each kv head, some rows at a time, over blocks of keys in pages.

   A piece is up to MOST_ROWS rows of a sequence's queries: row r is token r / group and query head r % group of a kv
   head. Threads take a unit at a time, a kv head of a piece or, where there are few pieces, a part of its keys. What
   the parts of a row have seen is put together once all threads are done with theirs. */
#include "attention_block.h"

/* Keys are handed out in so many parts for each thread, so that none waits long for another. */
#define PARTS 8
/* Values are used where they lie if a page has so many that a product with them is worth its start. */
#define WORTHWHILE 16
/* Values so many bytes apart, or a multiple, put each other out of the cache where it is to keep them for more rows. */
#define FAR_APART 1024
#define FEW_ROWS 6

enum { Q, K_PAGES, V_PAGES, Q_START, KV_LEN, BLOCK_TABLE, SINKS, Y }; /* at */
enum {                                                                /* size */
  TOKENS, HEADS, KV_HEADS, DIM, VALUE_DIM, PAGE, SEQUENCES, TABLE_WIDTH, Q_STRIDE, Y_STRIDE, K_PAGE_STRIDE,
  K_HEAD_STRIDE, K_TOKEN_STRIDE, V_PAGE_STRIDE, V_HEAD_STRIDE, V_TOKEN_STRIDE, X_TYPE, PAGE_TYPE, SINK_TYPE, WINDOW
};
enum { SCALE, SOFTCAP }; /* number */

/* ---- who does what ---- */

typedef struct {
  int64_t sequence, number;  /* which of the sequence's pieces, from the last */
  int64_t first_row, rows;
  int64_t begin, end;        /* keys that some row attends to */
  int64_t parts;
  int64_t unit;              /* the number of its first */
  int64_t memory;            /* where what its parts have seen begins in shared memory, in floats */
} piece;

static const piece BEFORE_THE_FIRST = {.number = -1};

static int64_t count_of(int64_t number, int64_t each) { return (number + each - 1) / each; }
static int64_t padded(int64_t number) { return count_of(number, LANES) * LANES; }
static int64_t group_of(const call *c) { return c->size[HEADS] / c->size[KV_HEADS]; }

static int64_t new_tokens(const call *c, int64_t sequence) {
  const int32_t *start = (const int32_t *)c->at[Q_START] + sequence;
  return start[1] - start[0];
}

/* The key that a row stands on. */
static int64_t position_of(const call *c, int64_t sequence, int64_t row) {
  return ((const int32_t *)c->at[KV_LEN])[sequence] - new_tokens(c, sequence) + row / group_of(c);
}

static int64_t floats_of_seen(const call *c, int64_t rows) {
  return rows * (padded(c->size[VALUE_DIM]) + LANES) + padded(rows);
}

static seen seen_at(const call *c, int64_t rows, float *memory) {
  float *totals = memory + rows * padded(c->size[VALUE_DIM]);
  return (seen){memory, totals, totals + rows * LANES};
}

/* Rows of a sequence's pieces: about as many in each, and multiples of those that are multiplied at a time. */
static int64_t rows_of_a_piece(int64_t rows) {
  return count_of(count_of(rows, count_of(rows, MOST_ROWS)), ROWS_AT_A_TIME) * ROWS_AT_A_TIME;
}

/* Go on to the next piece, where a part has at most `blocks` blocks of keys. After the last, where it returns 0,
   `memory` is what all parts want. */
static int advance(const call *c, int64_t blocks, piece *p) {
  p->unit += c->size[KV_HEADS] * p->parts;
  if (p->parts > 1) p->memory += c->size[KV_HEADS] * p->parts * floats_of_seen(c, p->rows);
  p->parts = 0;
  for (p->number++; p->sequence < c->size[SEQUENCES]; p->sequence++, p->number = 0) {
    const int64_t rows = new_tokens(c, p->sequence) * group_of(c);
    if (!rows) continue;
    const int64_t size = rows_of_a_piece(rows), pieces = count_of(rows, size);
    if (p->number == pieces) continue;
    p->first_row = (pieces - 1 - p->number) * size; /* the last see most keys: who takes them late is waited for */
    p->rows = rows - p->first_row < size ? rows - p->first_row : size;
    p->begin = c->size[WINDOW] ? position_of(c, p->sequence, p->first_row) - c->size[WINDOW] + 1 : 0;
    if (p->begin < 0) p->begin = 0;
    p->end = position_of(c, p->sequence, p->first_row + p->rows - 1) + 1;
    p->parts = count_of(count_of(p->end - p->begin, KEYS), blocks);
    return 1;
  }
  return 0;
}

/* Blocks of keys that a part has at most. */
static int64_t blocks_of_a_part(const call *c, int threads) {
  piece p = BEFORE_THE_FIRST;
  int64_t blocks = 0;
  while (advance(c, INT32_MAX, &p)) blocks += count_of(p.end - p.begin, KEYS);
  blocks = count_of(blocks * c->size[KV_HEADS], (int64_t)threads * PARTS);
  return threads == 1 ? INT32_MAX : blocks < 1 ? 1 : blocks;
}

/* ---- a thread's memory ---- */

typedef struct {
  float *queries;    /* [rows, dim], scaled */
  float *keys;       /* [dim, KEYS] */
  float *scores;     /* [rows, KEYS] */
  float *values;     /* [KEYS, value_stride] */
  float *own_seen;
  float *kept;
  float *row;        /* [value_dim] */
  int64_t *position; /* [rows] */
} memory;

/* An odd number of cache lines, so that values of neighbouring keys do not put each other out of the cache. */
static int64_t value_stride(const call *c) { return padded(c->size[VALUE_DIM]) | LANES; }

static int64_t lay_out(const call *c, char *at, memory *m) {
  const int64_t dim = c->size[DIM], width = padded(c->size[VALUE_DIM]);
  const int64_t counts[] = {MOST_ROWS * dim, dim * KEYS, MOST_ROWS * KEYS, KEYS * value_stride(c),
                            floats_of_seen(c, MOST_ROWS), MOST_ROWS + LANES, width, 2 * MOST_ROWS};
  char *begin[sizeof counts / sizeof *counts];
  int64_t bytes = 0;
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    begin[i] = at + bytes;
    bytes += padded(counts[i]) * 4;
  }
  *m = (memory){(float *)begin[0], (float *)begin[1], (float *)begin[2], (float *)begin[3], (float *)begin[4],
                (float *)begin[5], (float *)begin[6], (int64_t *)begin[7]};
  return bytes;
}

static int is_empty(const call *c) {
  return !c->size[TOKENS] || !c->size[HEADS] || !c->size[VALUE_DIM] || !c->size[SEQUENCES];
}

void attention_scratch(const call *c, int threads, int64_t *own, int64_t *shared) {
  if (is_empty(c)) return;
  memory m;
  piece p = BEFORE_THE_FIRST;
  const int64_t blocks = blocks_of_a_part(c, threads);
  while (advance(c, blocks, &p)) continue;
  *own = lay_out(c, NULL, &m);
  *shared = p.memory * 4;
}

/* ---- rows ---- */

/* Write the output of a row of a piece from what its parts have seen, which lie `stride` floats apart. `sums`: memory
   for a row, or the row of the only part. */
static void finish(const call *c, const piece *p, int64_t head, int64_t row, const seen *first, int64_t parts,
                   int64_t stride, float *sums) {
  const int64_t width = padded(c->size[VALUE_DIM]), group = group_of(c), at = p->first_row + row;
  const int64_t query_head = head * group + at % group;
  const int64_t token = ((const int32_t *)c->at[Q_START])[p->sequence] + at / group;
  const float sink = c->at[SINKS] ? read_float(c->at[SINKS], (int)c->size[SINK_TYPE], query_head) : -INFINITY;
  float top = sink, total = c->at[SINKS] ? 1 : 0;
  for (int64_t i = 0; i < parts; i++)
    if (first->top[i * stride + row] > top) top = first->top[i * stride + row];
  if (sink != top) total = expf(sink - top) * total;
  for (int64_t i = 0; i < parts; i++) {
    const float of_part = first->top[i * stride + row];
    const float factor = of_part == top ? 1.0f : expf(of_part - top);
    const float *more = first->sums + i * stride + row * width;
    total += factor * sum(load(first->totals + i * stride + row * LANES));
    for (int64_t v = 0; v < width; v += LANES) {
      const floats scaled = multiply(load(more + v), all(factor));
      store(sums + v, i ? add(load(sums + v), scaled) : scaled);
    }
  }
  const floats divisor = all(total != 0 ? total : 1.0f); /* nothing was attended to: zeros */
  for (int64_t v = 0; v < width; v += LANES) store(sums + v, divide(load(sums + v), divisor));
  char *y = (char *)c->at[Y] + token * c->size[Y_STRIDE];
  write_floats(y, (int)c->size[X_TYPE], query_head * c->size[VALUE_DIM], c->size[VALUE_DIM], sums);
}

/* The rows of a kv head of a piece: queries, scaled, and the keys that they stand on. */
static void read_queries(const call *c, const piece *p, int64_t head, const memory *m) {
  const int64_t dim = c->size[DIM], group = group_of(c), bytes = c->size[X_TYPE] == OF_FLOAT32 ? 4 : 2;
  const char *q = (const char *)c->at[Q] + ((const int32_t *)c->at[Q_START])[p->sequence] * c->size[Q_STRIDE];
  const int64_t first_position = position_of(c, p->sequence, 0);
  int64_t token = p->first_row / group, of_group = p->first_row % group;
  for (int64_t r = 0; r < p->rows; r++) {
    const char *row = q + token * c->size[Q_STRIDE] + (head * group + of_group) * dim * bytes;
    float *to = m->queries + r * dim;
    read_floats(row, (int)c->size[X_TYPE], dim, to);
    for (int64_t i = 0; i < dim; i++) to[i] *= (float)c->number[SCALE];
    m->position[r] = first_position + token;
    if (++of_group == group) token++, of_group = 0;
  }
}

/* ---- a block of keys ---- */

typedef struct {
  int64_t count;
  const char *keys[KEYS];      /* those past `count` are the last again, and never seen */
  const char *values;          /* of all, `stride` bytes apart; NULL: they are used where they lie, in runs */
  int64_t stride;
  int64_t runs, ends[KEYS];    /* of neighbours in a page */
  const char *run_values[KEYS];
} block_of_keys;

/* Find the keys `first` to `last - 1`, of which there are any, and their values in their pages. */
static void find_block(const call *c, const piece *p, int64_t head, int64_t first, int64_t last, block_of_keys *b) {
  const int64_t page = c->size[PAGE];
  const int32_t *table = (const int32_t *)c->at[BLOCK_TABLE] + p->sequence * c->size[TABLE_WIDTH];
  int64_t number = first / page, slot = first % page, done = 0;
  b->count = last - first < KEYS ? last - first : KEYS;
  for (b->runs = 0; done < b->count; number++, slot = 0) {
    const int64_t run = page - slot < b->count - done ? page - slot : b->count - done;
    const char *k = (const char *)c->at[K_PAGES] + table[number] * c->size[K_PAGE_STRIDE] +
                    head * c->size[K_HEAD_STRIDE] + slot * c->size[K_TOKEN_STRIDE];
    const char *v = (const char *)c->at[V_PAGES] + table[number] * c->size[V_PAGE_STRIDE] +
                    head * c->size[V_HEAD_STRIDE] + slot * c->size[V_TOKEN_STRIDE];
    for (int64_t i = 0; i < run; i++) b->keys[done + i] = k + i * c->size[K_TOKEN_STRIDE];
    done += run;
    b->run_values[b->runs] = v, b->ends[b->runs++] = done;
  }
  for (; done < KEYS; done++) b->keys[done] = b->keys[b->count - 1];
}

INLINE void ask_for(const char *from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

/* Copy values that cannot be used where they lie. */
static void copy_values(const call *c, const piece *p, const memory *m, block_of_keys *b, const block_of_keys *later) {
  const int64_t value_dim = c->size[VALUE_DIM];
  const int type = (int)c->size[PAGE_TYPE];
  const int is_float32 = type == OF_FLOAT32, few = p->rows <= FEW_ROWS;
  b->values = NULL;
  const int stays = few || (is_float32 && c->size[V_TOKEN_STRIDE] % FAR_APART);
  if (value_dim % LANES == 0 && c->size[PAGE] >= WORTHWHILE && stays) return;
  b->values = (const char *)m->values, b->stride = value_stride(c) * 4;
  for (int64_t run = 0, i = 0; run < b->runs; run++) {
    const char *v = b->run_values[run];
    const int64_t ahead = later->run_values[run < later->runs ? run : 0] - v;
    for (; i < b->ends[run]; i++, v += c->size[V_TOKEN_STRIDE]) {
      if (!is_float32) ask_for(v + ahead, value_dim * 2);
      read_floats(v, type, value_dim, m->values + i * value_stride(c));
    }
  }
}

/* Attend to a block whose first key has number `first`.

   later: the block that comes next. Its memory is asked for little by little: a core does not see by itself what rows
   are read next, and would wait for them. */
static void attend_block(const call *c, const piece *p, int64_t first, const memory *m, const seen *of,
                         block_of_keys *b, const block_of_keys *later) {
  static const float ones[MOST_ROWS] = {[0 ... MOST_ROWS - 1] = 1};
  const int64_t dim = c->size[DIM], width = padded(c->size[VALUE_DIM]), count = b->count;
  const settings s = {(float)c->number[SOFTCAP], c->size[WINDOW]};
  int64_t low = 0, high = p->rows; /* the rows that see any of them */
  while (low < high && m->position[low] < first) low++;
  while (s.window && low < high && m->position[high - 1] - s.window >= first + count - 1) high--;
  const int64_t rows = high - low, tiles = width / LANES;
  if (!rows) return;
  copy_values(c, p, m, b, later);
  const int type = (int)c->size[PAGE_TYPE];
  for (int64_t i = 0; i < count; i += LANES) turn_keys(b->keys + i, type, dim, m->keys + i, later->keys + i);
  const matrix keys = {(const char *)m->keys, OF_FLOAT32, KEYS * 4, dim};
  multiply_rows(rows, count_of(count, LANES), m->queries + low * dim, dim, &keys, NULL, m->scores, KEYS, NULL);
  const seen of_rows = {of->sums + low * width, of->totals + low * LANES, of->top + low};
  weigh(&s, rows, m->position + low, first, count, m->scores, &of_rows, m->kept);
  if (b->values) {
    const matrix values = {b->values, OF_FLOAT32, b->stride, count};
    multiply_rows(rows, tiles, m->scores, KEYS, &values, m->kept, of_rows.sums, width, NULL);
    return;
  }
  for (int64_t i = 0, begin = 0; i < b->runs; begin = b->ends[i++]) {
    const matrix values = {b->run_values[i], type, c->size[V_TOKEN_STRIDE], b->ends[i] - begin};
    multiply_rows(rows, tiles, m->scores + begin, KEYS, &values, i ? ones : m->kept, of_rows.sums, width,
                  i < later->runs ? later->run_values[i] : NULL);
  }
}

/* The keys of a unit of a piece, from its first on. */
static void keys_of(const piece *p, int64_t unit, int64_t *begin, int64_t *end) {
  const int64_t part = unit % p->parts, blocks = count_of(p->end - p->begin, KEYS);
  *begin = p->begin + blocks * part / p->parts * KEYS;
  *end = p->begin + blocks * (part + 1) / p->parts * KEYS;
  if (*end > p->end) *end = p->end;
}

/* The first keys of a unit from a piece on. Returns 0 where there is no such unit. */
static int find_unit(const call *c, piece p, int64_t blocks, int64_t unit, block_of_keys *b) {
  int64_t begin, end;
  while (unit >= p.unit + c->size[KV_HEADS] * p.parts)
    if (!advance(c, blocks, &p)) return 0;
  keys_of(&p, unit - p.unit, &begin, &end);
  find_block(c, &p, (unit - p.unit) / p.parts, begin, end, b);
  return 1;
}

/* coming: keys that this thread is likely to want next, asked for with the last of these. */
static void attend(const call *c, const piece *p, int64_t unit, const block_of_keys *coming, const worker *self,
                   const memory *m) {
  const int64_t head = unit / p->parts, width = padded(c->size[VALUE_DIM]), size = floats_of_seen(c, p->rows);
  int64_t begin, end;
  keys_of(p, unit, &begin, &end);
  const seen of = seen_at(c, p->rows, p->parts > 1 ? (float *)self->shared + p->memory + unit * size : m->own_seen);
  memset(of.sums, 0, (size_t)(p->rows * width) * 4);
  memset(of.totals, 0, (size_t)(p->rows * LANES) * 4);
  for (int64_t r = 0; r < p->rows; r++) of.top[r] = -INFINITY;
  read_queries(c, p, head, m);
  block_of_keys both[2], *at_hand = &both[0];
  find_block(c, p, head, begin, end, at_hand);
  for (int64_t first = begin; first < end; first += KEYS) {
    block_of_keys *next = at_hand == both ? &both[1] : both;
    const int is_last = first + KEYS >= end;
    if (!is_last) find_block(c, p, head, first + KEYS, end, next);
    attend_block(c, p, first, m, &of, at_hand, is_last ? coming : next);
    at_hand = next;
  }
  if (p->parts == 1)
    for (int64_t r = 0; r < p->rows; r++) finish(c, p, head, r, &of, 1, 0, of.sums + r * width);
}

void paged_attention(const call *c, const worker *self) {
  if (is_empty(c)) return;
  memory m;
  lay_out(c, self->own, &m);
  const int64_t blocks = blocks_of_a_part(c, self->count);
  piece p = BEFORE_THE_FIRST;
  int is_one = advance(c, blocks, &p);
  for (int64_t unit = take(self); is_one; unit = take(self)) {
    while (is_one && unit >= p.unit + c->size[KV_HEADS] * p.parts) is_one = advance(c, blocks, &p);
    if (!is_one) break;
    block_of_keys coming;
    if (!find_unit(c, p, blocks, unit + self->count, &coming)) find_unit(c, p, blocks, unit, &coming);
    attend(c, &p, unit - p.unit, &coming, self, &m);
  }
  if (!p.memory) return;
  meet(self);
  int64_t number = 0;
  p = BEFORE_THE_FIRST;
  while (advance(c, blocks, &p)) {
    const int64_t size = floats_of_seen(c, p.rows);
    for (int64_t i = 0; p.parts > 1 && i < c->size[KV_HEADS] * p.rows; i++) {
      if (number++ % self->count != self->index) continue;
      const int64_t head = i / p.rows;
      const seen of = seen_at(c, p.rows, (float *)self->shared + p.memory + head * p.parts * size);
      finish(c, &p, head, i % p.rows, &of, p.parts, size, m.row);
    }
  }
}
