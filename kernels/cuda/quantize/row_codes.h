#pragma once

// Codes of rows that a kernel has just made. A thread owns runs of 8 columns: run t, t + threads,
// and so on, so that 16 neighbouring threads own a group of 128. For kernels only (simt.h).

#include <cstdint>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/units.h"
#include "kernels/cuda/quantize/token_rule.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/runs.h"

namespace octavo::cuda {

// Tells of a maximum that is no finite number.
OCTAVO_DEVICE void TellWorst(const TokenCodes& to, uint32_t most) {
  if (to.worst != nullptr && !IsFiniteAmax(most)) simt::AtomicMax(to.worst, most);
}

template <typename Rule>
OCTAVO_DEVICE void StoreRunCodes(const Rule& rule, const Run& run, int count, uint8_t* to) {
  uint8_t codes[kRun];
  for (int i = 0; i < kRun; ++i) codes[i] = rule.Code(F32FromBf16(run.values[i]));
  StoreCodes(to, codes, count);
}

// One run of `row`, at column `at`, for static kinds and groups: zeros behind its end. All lanes of
// a warp call together, with neighbouring runs, the first of which begins at a multiple of 256
// columns; runs that do not exist (count 0) among them.
template <typename Rule>
OCTAVO_DEVICE void EmitRun(const TokenCodes& to, int64_t row, int64_t columns, int64_t at,
                           const Run& run) {
  const int count = RunLength(at, columns);
  uint8_t* codes = to.codes + row * columns + at;
  uint32_t most = run.Most();
  if constexpr (Rule::kStatic) {
    if (count > 0) StoreRunCodes(Rule{0, to.factor}, run, count, codes);
    TellWorst(to, most);
  } else {
    static_assert(Rule::kKind == TokenScales::kGroupsFp8);
    constexpr int kThreadsOfGroup = static_cast<int>(kScaleBlock) / kRun;
    for (int mask = kThreadsOfGroup / 2; mask > 0; mask /= 2) {
      most = MergeAmax(most, simt::ShuffleXor(most, mask));
    }
    if (count == 0) return;
    const Rule rule = Rule::Of(most);
    StoreRunCodes(rule, run, count, codes);
    if (simt::Lane() % kThreadsOfGroup == 0) {
      to.scales[row * CeilDiv(columns, kScaleBlock) + at / kScaleBlock] = rule.scale;
      TellWorst(to, most);
    }
  }
}

// A whole row that the block holds in shared memory, every thread its own runs, for kinds with one
// dynamic scale. `most`: of the thread's runs. `scratch` as for BlockMax; the runs need no barrier.
template <typename Rule, int kThreads>
OCTAVO_DEVICE void EmitHeldRow(const TokenCodes& to, int64_t row, int64_t columns,
                               const uint16_t* held, uint32_t most, uint32_t* scratch) {
  static_assert(Rule::kOfWholeRow);
  most = BlockMax<kThreads>(most, scratch);
  const Rule rule = Rule::Of(most);
  for (int64_t at = simt::ThreadIndex() * kRun; at < columns; at += kThreads * kRun) {
    StoreRunCodes(rule, LoadRun(held + at, kRun), RunLength(at, columns),
                  to.codes + row * columns + at);
  }
  if (simt::ThreadIndex() == 0) {
    to.scales[row] = rule.scale;
    TellWorst(to, most);
  }
}

}  // namespace octavo::cuda
