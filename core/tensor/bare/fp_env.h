#pragma once

// The floating-point environment of everything that computes: round to nearest, subnormal results
// and operands are zero (FTZ, DAZ), exceptions masked. One FpEnv lives at the top of every thread
// that runs kernels, in workers, tests and command line alike.

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace octavo {

class FpEnv {
 public:
#if defined(__x86_64__)
  FpEnv() : saved_(_mm_getcsr()) { _mm_setcsr(kControl); }
  ~FpEnv() { _mm_setcsr(saved_); }
  // True where the calling thread runs in this environment (sticky exception flags aside).
  static bool Active() { return (_mm_getcsr() & ~kStickyFlags) == kControl; }
#else
  FpEnv() = default;
  ~FpEnv() = default;
  static bool Active() { return true; }
#endif
  FpEnv(const FpEnv&) = delete;
  FpEnv& operator=(const FpEnv&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr unsigned kControl = 0x9fc0;  // FTZ | all exceptions masked | DAZ
  static constexpr unsigned kStickyFlags = 0x3f;
  unsigned saved_;
#endif
};

}  // namespace octavo
