/* Runs the library's calls for a process on another kind of processor: read from stdin, answered on stdout.

   A call: the record; how many arrays it has; of each the number of its parts (-1: it is not given; 1: an array; more:
   a packed weight, its structure first), and of each part its bytes and what they are. The answer: all parts. */
#include <stdio.h>
#include <stdlib.h>

#include "run.h"
#include "weight.h"

#define POINTERS 6 /* of a weight, its last fields */

static void receive(void *to, size_t bytes) {
  if (fread(to, 1, bytes, stdin) != bytes) exit(feof(stdin) ? 0 : 1);
}

int main(void) {
  for (;;) {
    record one;
    int32_t count, parts[PLACES];
    int64_t bytes[PLACES][1 + POINTERS] = {{0}};
    char *part[PLACES][1 + POINTERS] = {{0}};
    void *arrays[PLACES];
    const int64_t sizes[1] = {1};
    receive(&one, sizeof one);
    receive(&count, sizeof count);
    for (int i = 0; i < count; i++) {
      receive(&parts[i], sizeof parts[i]);
      for (int p = 0; p < parts[i]; p++) {
        receive(&bytes[i][p], sizeof bytes[i][p]);
        if (bytes[i][p] < 0) continue; /* a weight without this array */
        part[i][p] = aligned_alloc(64, (size_t)(bytes[i][p] + 64) / 64 * 64);
        receive(part[i][p], (size_t)bytes[i][p]);
      }
      arrays[i] = part[i][0];
      if (parts[i] > 1) memcpy(part[i][0] + sizeof(weight) - POINTERS * 8, &part[i][1], POINTERS * 8);
    }
    if (tinyllm_run(&one, 1, arrays, count, NULL, 0, sizes, 2, NULL)) return 2;
    for (int i = 0; i < count; i++)
      for (int p = 0; p < parts[i]; p++) {
        if (bytes[i][p] > 0 && (p || parts[i] == 1)) fwrite(part[i][p], 1, (size_t)bytes[i][p], stdout);
        free(part[i][p]);
      }
    fflush(stdout);
  }
}
