/* Which level the processor can run, asked of itself: nothing of the compiler's or of libc's guesses.
 *
 * x86-64: 0 portable, 1 avx2, 2 avx512, 3 avx512vnni. aarch64: 0 portable, 1 neon. Others: 0.
 * What the processor has counts only where the operating system keeps the registers, which xgetbv says.
 */

#include <stdint.h>

#if defined(__x86_64__)

typedef struct {
    uint32_t eax, ebx, ecx, edx;
} cpu_registers;

/* All that a level is decided by: the leaves 1, 7 and 7.1 of cpuid, zeros where there is none, and XCR0. */
typedef struct {
    cpu_registers basic, extended, further;
    uint64_t saved;
} cpu_facts;

#define BIT(word, number) (((word) >> (number)) & 1u)

enum { SAVES_AVX = 0x06, SAVES_AVX512 = 0xe6 };

static int level_of(const cpu_facts *cpu) {
    const cpu_registers *basic = &cpu->basic, *extended = &cpu->extended;
    int fma = BIT(basic->ecx, 12), avx = BIT(basic->ecx, 28), f16c = BIT(basic->ecx, 29);
    int avx2 = BIT(extended->ebx, 5), bmi2 = BIT(extended->ebx, 8);
    if ((cpu->saved & SAVES_AVX) != SAVES_AVX || !(avx && fma && f16c && avx2 && bmi2)) {
        return 0;
    }
    int f = BIT(extended->ebx, 16), dq = BIT(extended->ebx, 17);
    int bw = BIT(extended->ebx, 30), vl = BIT(extended->ebx, 31);
    if ((cpu->saved & SAVES_AVX512) != SAVES_AVX512 || !(f && dq && bw && vl)) {
        return 1;
    }
    int vnni = BIT(extended->ecx, 11), bf16 = BIT(cpu->further.eax, 5);
    return vnni && bf16 ? 3 : 2;
}

static cpu_registers cpuid(uint32_t leaf, uint32_t part) {
    cpu_registers r;
    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(part));
    return r;
}

/* Only where cpuid says that the operating system has switched it on: the instruction is unknown otherwise. */
static uint64_t xgetbv(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int cpu_level(void) {
    cpu_facts cpu = {0};
    uint32_t last = cpuid(0, 0).eax;
    if (last >= 1) {
        cpu.basic = cpuid(1, 0);
        cpu.saved = BIT(cpu.basic.ecx, 27) ? xgetbv() : 0;
    }
    if (last >= 7) {
        cpu.extended = cpuid(7, 0); /* its eax is the last part of the leaf */
        if (cpu.extended.eax >= 1) {
            cpu.further = cpuid(7, 1);
        }
    }
    return level_of(&cpu);
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

/* Bits of AT_HWCAP that the kernel keeps for good: half floats as scalars and as vectors, and the dot product. */
enum { FPHP = 1 << 9, ASIMDHP = 1 << 10, ASIMDDP = 1 << 20 };

static int cpu_level(void) {
    unsigned long wanted = FPHP | ASIMDHP | ASIMDDP;
    return (getauxval(AT_HWCAP) & wanted) == wanted;
}

#elif defined(__aarch64__) && defined(__APPLE__)

static int cpu_level(void) {
    return 1; /* every Apple processor has them */
}

#else

static int cpu_level(void) {
    return 0;
}

#endif

/* The highest level that this processor and its operating system can run. */
__attribute__((visibility("default"))) int tinyllm_cpu_level(void) {
    return cpu_level();
}
