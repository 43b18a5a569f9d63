#include "worker/quant/solve/hessian.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/status.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/units.h"
#include "kernels/hessian.h"
#include "kernels/matmul.h"

namespace octavo {

absl::StatusOr<Hessian> MakeHessian(int64_t channels, Arena* arena) {
  Hessian out;
  out.channels = channels;
  out.stride = RoundUp(channels, 16);
  OCTAVO_ASSIGN_OR_RETURN(
      out.values,
      arena->Allocate(static_cast<uint64_t>(channels * out.stride) * sizeof(float), "a Hessian"));
  return out;
}

void FoldHessian(std::span<const int8_t> exponents, Hessian* hessian) {
  const FpEnv env;
  const auto power = [](int exponent) {
    return FloatFromBits(static_cast<uint32_t>(127 - exponent) << 23);
  };
  for (int64_t i = 0; i < hessian->channels; ++i) {
    float* row = hessian->Row(i);
    for (int64_t j = i; j < hessian->channels; ++j) {
      row[j] *= power(exponents[static_cast<size_t>(i)] + exponents[static_cast<size_t>(j)]);
    }
  }
}

absl::StatusOr<HessianLeaf> HessianLeaf::Make(int64_t channels, Isa isa, Arena* arena,
                                              ThreadPool* pool) {
  HessianLeaf leaf;
  leaf.isa_ = isa;
  leaf.pool_ = pool;
  OCTAVO_ASSIGN_OR_RETURN(leaf.sum_, MakeHessian(channels, arena));
  OCTAVO_ASSIGN_OR_RETURN(leaf.pending_,
                          arena->Allocate(static_cast<uint64_t>(kHessianTokens * channels) * 2,
                                          "tokens on their way into a Hessian"));
  return leaf;
}

void HessianLeaf::Sum(const uint16_t* x, int64_t tokens, int64_t stride) {
  const FpEnv env;
  const HessianOps& ops = HessianOpsFor(isa_);
  const int64_t channels = sum_.channels;
  pool_->ParallelFor(
      CeilDiv(channels, kHessianStripRows), 1, [&](int64_t begin, int64_t end, int /*thread*/) {
        for (int64_t strip = begin; strip < end; ++strip) {
          const int64_t row = strip * kHessianStripRows;
          ops.add({x, stride, tokens, channels}, row, std::min(row + kHessianStripRows, channels),
                  sum_.Row(0), sum_.stride);
        }
      });
  sum_.tokens += tokens;
}

void HessianLeaf::Add(const uint16_t* x, int64_t tokens, int64_t stride) {
  const int64_t channels = sum_.channels;
  while (tokens > 0) {
    int64_t taken = kHessianTokens;
    if (pending_tokens_ == 0 && tokens >= kHessianTokens) {
      Sum(x, kHessianTokens, stride);
    } else {
      taken = std::min(tokens, kHessianTokens - pending_tokens_);
      for (int64_t t = 0; t < taken; ++t) {
        std::memcpy(pending_.as<uint16_t>() + (pending_tokens_ + t) * channels, x + t * stride,
                    static_cast<size_t>(channels) * 2);
      }
      pending_tokens_ += taken;
      if (pending_tokens_ == kHessianTokens) {
        Sum(pending_.as<uint16_t>(), kHessianTokens, channels);
        pending_tokens_ = 0;
      }
    }
    x += taken * stride;
    tokens -= taken;
  }
}

Hessian HessianLeaf::Finish() {
  if (pending_tokens_ > 0) Sum(pending_.as<uint16_t>(), pending_tokens_, sum_.channels);
  pending_tokens_ = 0;
  return std::move(sum_);
}

void HessianTree::Push(Hessian leaf) {
  OCTAVO_CHECK(parts_.empty() || parts_[0].sum.channels == leaf.channels);
  parts_.push_back({std::move(leaf), 1});
  // Left children of Tree are whole powers of two: they can merge before the rest is known.
  while (parts_.size() > 1 && parts_[parts_.size() - 2].leaves == parts_.back().leaves) MergeLast();
}

void HessianTree::MergeLast() {
  const FpEnv env;
  const MatmulOps& ops = MatmulOpsFor(isa_);
  Part& into = parts_[parts_.size() - 2];
  const Part& from = parts_.back();
  const int64_t channels = into.sum.channels;
  pool_->ParallelFor(channels, 16, [&](int64_t begin, int64_t end, int /*thread*/) {
    for (int64_t i = begin; i < end; ++i) {
      ops.add(into.sum.Row(i) + i, from.sum.Row(i) + i, channels - i);
    }
  });
  into.sum.tokens += from.sum.tokens;
  into.leaves += from.leaves;
  parts_.pop_back();
}

Hessian HessianTree::Finish() {
  OCTAVO_CHECK(!parts_.empty());
  while (parts_.size() > 1) MergeLast();
  return std::move(parts_[0].sum);
}

absl::StatusOr<Hessian> HessianOf(const uint16_t* x, int64_t tokens, int64_t channels,
                                  int64_t stride, Isa isa, Arena* arena, ThreadPool* pool) {
  const int64_t leaf_tokens = HessianLeafTokens(tokens);
  HessianTree tree(isa, pool);
  int64_t token = 0;
  do {
    OCTAVO_ASSIGN_OR_RETURN(HessianLeaf leaf, HessianLeaf::Make(channels, isa, arena, pool));
    leaf.Add(x + token * stride, std::min(leaf_tokens, tokens - token), stride);
    tree.Push(leaf.Finish());
    token += leaf_tokens;
  } while (token < tokens);
  return tree.Finish();
}

}  // namespace octavo
