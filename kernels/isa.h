#pragma once

// The instruction sets that kernels are written for, and which of them this machine runs. Chosen
// once, at start, from the processor's feature bits and from what the operating system saves
// (XCR0), never from its name.

#include <optional>
#include <string_view>

namespace octavo {

enum class Isa {
  kReference = 0,  // plain C++: the specification
  kAvx2 = 1,       // AVX2, FMA, F16C
  kAvx512 = 2,     // AVX-512 F, BW, VL, DQ beside them
};

// Best first: what a start without --isa tries.
inline constexpr Isa kIsasBestFirst[] = {Isa::kAvx512, Isa::kAvx2, Isa::kReference};

// True where this machine and its operating system can run kernels of `isa`.
bool IsSupported(Isa isa);

// The widest supported one.
Isa BestIsa();

// "reference", "avx2", "avx512", and back. "auto" parses as BestIsa(); nothing for other names.
std::string_view Name(Isa isa);
std::optional<Isa> ParseIsa(std::string_view name);

}  // namespace octavo
