// Activations: a block takes a token; with groups of 128, a warp takes a group.

#include "core/tensor/bare/units.h"
#include "kernels/cuda/quantize/quantize.h"
#include "kernels/cuda/quantize/token_rule.h"
#include "kernels/cuda/rows.h"

namespace octavo::cuda {

template <typename Rule>
struct TokenKernel {
  static constexpr int kThreads = 256;
  QuantizeTokens call;

  OCTAVO_DEVICE void Cast(const uint16_t* from, int64_t count, int worker, int workers,
                          const Rule& rule, uint8_t* to) const {
    ForEachRun(from, count, worker, workers, [&](const auto& values, int64_t column, int here) {
      uint8_t codes[8];
      for (int i = 0; i < 8; ++i) codes[i] = rule.Code(F32FromBf16(values[i]));
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
      const Rule rule = Rule::Of(most);
      Cast(from + begin, count, simt::Lane(), simt::kWarp, rule, to + begin);
      if (simt::Lane() == 0) WriteScale(rule, most, row * groups + group);
    }
  }

  // Of a static kind.
  OCTAVO_DEVICE float FactorOf(int64_t row) const {
    if (call.expert_factors == nullptr) return call.factor;
    int expert = 0;
    while (row >= call.expert_offsets[expert + 1]) ++expert;
    return call.expert_factors[expert];
  }

  OCTAVO_DEVICE void operator()() const {
    const int64_t row = simt::Block();
    const uint16_t* from = call.x + row * call.columns;
    uint8_t* to = call.codes + row * call.columns;
    if constexpr (Rule::kKind == TokenScales::kGroupsFp8) {
      Groups(row, from, to);
    } else if constexpr (Rule::kStatic) {
      Cast(from, call.columns, simt::ThreadIndex(), kThreads, {0, FactorOf(row)}, to);
      if (call.worst == nullptr) return;
      const uint32_t most = WarpMax(Most(from, call.columns, simt::ThreadIndex(), kThreads));
      if (simt::Lane() == 0 && !IsFiniteAmax(most)) simt::AtomicMax(call.worst, most);
    } else {
      auto* scratch = simt::SharedMemory<uint32_t>();
      const uint32_t most =
          BlockMax<kThreads>(Most(from, call.columns, simt::ThreadIndex(), kThreads), scratch);
      const Rule rule = Rule::Of(most);
      Cast(from, call.columns, simt::ThreadIndex(), kThreads, rule, to);
      if (simt::ThreadIndex() == 0) WriteScale(rule, most, row);
    }
  }
};

void Launch(const QuantizeTokens& call, simt::Stream stream) {
  if (call.columns == 0) return;
  WithTokenRule(call.kind, [&](auto rule) {
    using Kernel = TokenKernel<decltype(rule)>;
    simt::Launch(
        Kernel{call},
        {.blocks = static_cast<int>(call.rows), .shared_bytes = Kernel::kThreads / simt::kWarp * 4},
        stream);
  });
}

}  // namespace octavo::cuda
