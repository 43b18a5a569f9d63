#pragma once

// What the reference makes of a token's row, for tests of kernels that write codes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/tensor/bare/scale.h"
#include "core/tensor/bare/units.h"
#include "gtest/gtest.h"
#include "kernels/cuda/quantize/quantize.h"
#include "kernels/quantize_activation.h"

namespace octavo::cuda {

inline constexpr TokenScales kTokenScales[] = {TokenScales::kDynamicFp8, TokenScales::kDynamicInt8,
                                               TokenScales::kGroupsFp8, TokenScales::kStaticFp8,
                                               TokenScales::kStaticInt8};

struct Token {
  std::vector<float> scales;
  std::vector<uint8_t> codes;
};

inline Token ExpectedToken(TokenScales kind, const uint16_t* row, size_t count, float factor) {
  const QuantizeActivationOps& ops = QuantizeActivationOpsFor(Isa::kReference);
  Token token{{}, std::vector<uint8_t>(count)};
  auto* int8 = reinterpret_cast<int8_t*>(token.codes.data());
  if (kind == TokenScales::kStaticFp8) {
    ops.fp8_multiply(row, count, factor, token.codes.data());
  } else if (kind == TokenScales::kStaticInt8) {
    ops.int8_multiply(row, count, factor, int8);
  } else if (kind == TokenScales::kDynamicInt8) {
    const Int8Dynamic rule = Int8DynamicScale(ops.amax(row, count));
    token.scales.push_back(rule.scale);
    ops.int8_multiply(row, count, rule.factor, int8);
  } else {
    const size_t group = kind == TokenScales::kGroupsFp8 ? kActivationGroup : count;
    for (size_t begin = 0; begin < count; begin += group) {
      const size_t part = std::min(group, count - begin);
      token.scales.push_back(Fp8DynamicScale(ops.amax(row + begin, part)));
      ops.fp8_divide(row + begin, part, token.scales.back(), token.codes.data() + begin);
    }
  }
  return token;
}

// Room for the codes of rows that a kernel makes, and what they are compared with.
class CodedRows {
 public:
  static constexpr float kFactor = 37.25f;

  CodedRows(TokenScales kind, int64_t rows, int64_t columns)
      : kind_(kind),
        columns_(static_cast<size_t>(columns)),
        groups_(kind == TokenScales::kGroupsFp8 ? static_cast<size_t>(CeilDiv(columns, 128)) : 1),
        codes_(static_cast<size_t>(rows) * columns_),
        scales_(static_cast<size_t>(rows) * groups_),
        worst_(1) {
    worst_[0] = 0;
  }
  TokenCodes Call() const { return {kind_, kFactor, codes_.data(), scales_.data(), worst_.data()}; }
  uint32_t worst() const { return worst_[0]; }
  // Row `row` has the codes and scales of these BF16 values.
  void ExpectRow(size_t row, const uint16_t* values) const {
    ASSERT_TRUE(codes_.Intact() && scales_.Intact() && worst_.Intact());
    const Token expected = ExpectedToken(kind_, values, columns_, kFactor);
    for (size_t i = 0; i < expected.scales.size(); ++i) {
      ASSERT_EQ(scales_[row * groups_ + i], expected.scales[i]) << "row " << row << ", scale " << i;
    }
    for (size_t i = 0; i < columns_; ++i) {
      ASSERT_EQ(codes_[row * columns_ + i], expected.codes[i]) << "row " << row << ", " << i;
    }
  }

 private:
  TokenScales kind_;
  size_t columns_, groups_;
  simt::Unified<uint8_t> codes_;
  simt::Unified<float> scales_;
  simt::Unified<uint32_t> worst_;
};

}  // namespace octavo::cuda
