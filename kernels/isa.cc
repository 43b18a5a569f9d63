#include "kernels/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace octavo {
namespace {

struct Features {
  bool avx2 = false;
  bool avx512 = false;
};

#if defined(__x86_64__)
unsigned long long ExtendedControl() {
  unsigned low = 0;
  unsigned high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<unsigned long long>(high) << 32) | low;
}

Features Detect() {
  constexpr unsigned kFma = 1u << 12, kOsXsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr unsigned kAvx2 = 1u << 5;
  constexpr unsigned kAvx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F DQ BW VL
  constexpr unsigned long long kYmmState = 0x06, kZmmState = 0xe6;
  Features found;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return found;
  constexpr unsigned kNeeded = kFma | kOsXsave | kAvx | kF16c;
  if ((c & kNeeded) != kNeeded) return found;
  const unsigned long long saved = ExtendedControl();
  if ((saved & kYmmState) != kYmmState) return found;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return found;
  found.avx2 = (b & kAvx2) != 0;
  found.avx512 = found.avx2 && (b & kAvx512) == kAvx512 && (saved & kZmmState) == kZmmState;
  return found;
}
#else
Features Detect() { return {}; }
#endif

}  // namespace

bool IsSupported(Isa isa) {
  static const Features features = Detect();
  switch (isa) {
    case Isa::kReference:
      return true;
    case Isa::kAvx2:
      return features.avx2;
    case Isa::kAvx512:
      return features.avx512;
  }
  return false;
}

Isa BestIsa() {
  for (Isa isa : kIsasBestFirst) {
    if (IsSupported(isa)) return isa;
  }
  return Isa::kReference;
}

std::string_view Name(Isa isa) {
  switch (isa) {
    case Isa::kReference:
      return "reference";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "invalid";
}

std::optional<Isa> ParseIsa(std::string_view name) {
  if (name == "auto") return BestIsa();
  for (Isa isa : kIsasBestFirst) {
    if (name == Name(isa)) return isa;
  }
  return std::nullopt;
}

}  // namespace octavo
