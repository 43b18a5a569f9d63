// Activations: a block takes a token; with groups of 128, a warp takes a group.

#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/int8.h"
#include "core/tensor/bare/units.h"
#include "kernels/cuda/quantize/quantize.h"
#include "kernels/cuda/rows.h"

namespace octavo::cuda {

template <TokenScales kKind>
struct TokenKernel {
  static constexpr int kThreads = 256;
  static constexpr bool kStatic =
      kKind == TokenScales::kStaticFp8 || kKind == TokenScales::kStaticInt8;
  QuantizeTokens call;

  // By what a value is divided or multiplied, and the scale that is written.
  struct Rule {
    float scale;
    float factor;
  };
  OCTAVO_DEVICE static Rule RuleOf(uint32_t amax_bits) {
    if constexpr (kKind == TokenScales::kDynamicInt8) {
      const Int8Dynamic rule = Int8DynamicScale(amax_bits);
      return {rule.scale, rule.factor};
    }
    return {Fp8DynamicScale(amax_bits), 0};
  }
  OCTAVO_DEVICE static uint8_t Code(float x, const Rule& rule) {
    if constexpr (kKind == TokenScales::kStaticFp8) return Fp8FromF32(x * rule.factor);
    if constexpr (kKind == TokenScales::kDynamicInt8 || kKind == TokenScales::kStaticInt8) {
      return static_cast<uint8_t>(Int8FromF32(x * rule.factor));
    }
    return Fp8FromF32(x / rule.scale);
  }

  OCTAVO_DEVICE void Cast(const uint16_t* from, int64_t count, int worker, int workers,
                          const Rule& rule, uint8_t* to) const {
    ForEachRun(from, count, worker, workers, [&](const auto& values, int64_t column, int here) {
      uint8_t codes[8];
      for (int i = 0; i < 8; ++i) codes[i] = Code(F32FromBf16(values[i]), rule);
      StoreCodes(to + column, codes, here);
    });
  }

  OCTAVO_DEVICE static uint32_t Most(const uint16_t* from, int64_t count, int worker, int workers) {
    uint32_t most = 0;
    ForEachRun(from, count, worker, workers, [&](const auto& values, int64_t, int) {
      for (const uint16_t bits : values) most = MergeAmax(most, MagnitudeBitsOfBf16(bits));
    });
    return most;
  }

  OCTAVO_DEVICE void WriteScale(const Rule& rule, uint32_t amax_bits, int64_t at) const {
    call.scales[at] = rule.scale;
    if (!IsFiniteAmax(amax_bits)) simt::AtomicMax(call.worst, amax_bits);
  }

  OCTAVO_DEVICE void Groups(int64_t row, const uint16_t* from, uint8_t* to) const {
    const int64_t groups = CeilDiv(call.columns, kScaleBlock);
    for (int64_t group = simt::Warp(); group < groups; group += kThreads / simt::kWarp) {
      const int64_t begin = group * kScaleBlock;
      const int64_t count = call.columns - begin < kScaleBlock ? call.columns - begin : kScaleBlock;
      const uint32_t most = WarpMax(Most(from + begin, count, simt::Lane(), simt::kWarp));
      const Rule rule = RuleOf(most);
      Cast(from + begin, count, simt::Lane(), simt::kWarp, rule, to + begin);
      if (simt::Lane() == 0) WriteScale(rule, most, row * groups + group);
    }
  }

  OCTAVO_DEVICE void operator()() const {
    const int64_t row = simt::Block();
    const uint16_t* from = call.x + row * call.columns;
    uint8_t* to = call.codes + row * call.columns;
    if constexpr (kKind == TokenScales::kGroupsFp8) {
      Groups(row, from, to);
    } else if constexpr (kStatic) {
      Cast(from, call.columns, simt::ThreadIndex(), kThreads, {0, call.factor}, to);
    } else {
      auto* scratch = simt::SharedMemory<uint32_t>();
      const uint32_t most =
          BlockMax<kThreads>(Most(from, call.columns, simt::ThreadIndex(), kThreads), scratch);
      const Rule rule = RuleOf(most);
      Cast(from, call.columns, simt::ThreadIndex(), kThreads, rule, to);
      if (simt::ThreadIndex() == 0) WriteScale(rule, most, row);
    }
  }
};

namespace {

template <TokenScales kKind>
void LaunchTokens(const QuantizeTokens& call, simt::Stream stream) {
  simt::Launch(TokenKernel<kKind>{call},
               {.blocks = static_cast<int>(call.rows),
                .shared_bytes = TokenKernel<kKind>::kThreads / simt::kWarp * 4},
               stream);
}

}  // namespace

void Launch(const QuantizeTokens& call, simt::Stream stream) {
  if (call.columns == 0) return;
  switch (call.kind) {
    case TokenScales::kDynamicFp8:
      return LaunchTokens<TokenScales::kDynamicFp8>(call, stream);
    case TokenScales::kDynamicInt8:
      return LaunchTokens<TokenScales::kDynamicInt8>(call, stream);
    case TokenScales::kGroupsFp8:
      return LaunchTokens<TokenScales::kGroupsFp8>(call, stream);
    case TokenScales::kStaticFp8:
      return LaunchTokens<TokenScales::kStaticFp8>(call, stream);
    case TokenScales::kStaticInt8:
      return LaunchTokens<TokenScales::kStaticInt8>(call, stream);
  }
}

}  // namespace octavo::cuda
