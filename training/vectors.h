/* As many floats as a register of this processor holds, and what they are loaded, chosen and bent with. */

#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16 /* compilers keep longer vectors than the processor has in memory, which takes four times as long */
#endif

typedef float vec __attribute__((vector_size(BYTES)));
typedef int32_t flags __attribute__((vector_size(BYTES)));
typedef float loose __attribute__((vector_size(BYTES), aligned(4)));

enum { WIDE = BYTES / sizeof(float) };

static inline vec at(const float *from) { return *(const loose *)from; }

static inline void put(float *to, vec v) { *(loose *)to = v; }

static inline vec choose(flags which, vec yes, vec no) { return (vec)(((flags)yes & which) | ((flags)no & ~which)); }

#endif
