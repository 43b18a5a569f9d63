#pragma once

// How a token's values become codes: one rule for every kind of TokenScales. For kernels only
// (simt.h).

#include <cstdint>

#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/int8.h"
#include "core/tensor/bare/scale.h"
#include "kernels/cuda/quantize/quantize.h"
#include "kernels/cuda/simt/simt.h"

namespace octavo::cuda {

template <TokenScales kOfKind>
struct TokenRule {
  static constexpr bool kMakesCodes = true;
  static constexpr TokenScales kKind = kOfKind;
  static constexpr bool kStatic =
      kKind == TokenScales::kStaticFp8 || kKind == TokenScales::kStaticInt8;
  static constexpr bool kOfWholeRow =
      kKind == TokenScales::kDynamicFp8 || kKind == TokenScales::kDynamicInt8;

  float scale;   // that is written; FP8 values are divided by it where it is dynamic
  float factor;  // by which all others are multiplied

  // REQUIRES: not a static kind.
  OCTAVO_DEVICE static TokenRule Of(uint32_t amax_bits) {
    if constexpr (kKind == TokenScales::kDynamicInt8) {
      const Int8Dynamic rule = Int8DynamicScale(amax_bits);
      return {rule.scale, rule.factor};
    }
    return {Fp8DynamicScale(amax_bits), 0};
  }
  OCTAVO_DEVICE uint8_t Code(float x) const {
    if constexpr (kKind == TokenScales::kStaticFp8) return Fp8FromF32(x * factor);
    if constexpr (kKind == TokenScales::kDynamicInt8 || kKind == TokenScales::kStaticInt8) {
      return static_cast<uint8_t>(Int8FromF32(x * factor));
    }
    return Fp8FromF32(x / scale);
  }
};

// Calls body(TokenRule<kind>{}).
template <typename Body>
void WithTokenRule(TokenScales kind, Body body) {
  switch (kind) {
    case TokenScales::kDynamicFp8:
      return body(TokenRule<TokenScales::kDynamicFp8>{});
    case TokenScales::kDynamicInt8:
      return body(TokenRule<TokenScales::kDynamicInt8>{});
    case TokenScales::kGroupsFp8:
      return body(TokenRule<TokenScales::kGroupsFp8>{});
    case TokenScales::kStaticFp8:
      return body(TokenRule<TokenScales::kStaticFp8>{});
    case TokenScales::kStaticInt8:
      return body(TokenRule<TokenScales::kStaticInt8>{});
  }
}

// In place of a rule where no codes are made.
struct NoTokenRule {
  static constexpr bool kMakesCodes = false;
  static constexpr bool kOfWholeRow = false;
};

// Calls body with the rule of `to`.
template <typename Body>
void WithTokenRule(const TokenCodes& to, Body body) {
  if (to.codes == nullptr) return body(NoTokenRule{});
  WithTokenRule(to.kind, body);
}

}  // namespace octavo::cuda
