#pragma once

// A hint to the processor inside a loop that waits for another thread's or process's store.

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {

inline void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace octavo
