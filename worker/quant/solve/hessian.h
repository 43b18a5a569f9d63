#pragma once

// The Hessian of a linear layer's squared output error: H = X^T X over the tokens that the layer
// reads. (The usual factor 2 and any mean over tokens are left out: damping is relative.)
//
// Tokens are cut into leaves (HessianLeafTokens in core/tensor/bare/units.h) that may be summed
// anywhere, each from zero by the 32-block rule over its tokens in order, and merge over Tree: the
// same bits whoever summed which leaf (docs/numerics.md). An expert's Hessian is one leaf.

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"

namespace octavo {

// Upper triangle, F32: row i begins at values + i * stride and is good from column i on.
struct Hessian {
  int64_t channels = 0;
  int64_t stride = 0;  // a multiple of 16
  int64_t tokens = 0;  // summed
  Buffer values;

  float* Row(int64_t i) const { return values.as<float>() + i * stride; }
  // Either triangle.
  float At(int64_t i, int64_t j) const { return i <= j ? Row(i)[j] : Row(j)[i]; }
};

// Zero, of no tokens; channels^2 F32. Errors: kOutOfMemory.
absl::StatusOr<Hessian> MakeHessian(int64_t channels, Arena* arena);

// As if channel i of every token had been divided by 2^exponents[i]: exact, but for elements that
// become subnormal. REQUIRES: an exponent for every channel, at most 32 in magnitude.
void FoldHessian(std::span<const int8_t> exponents, Hessian* hessian);

// One leaf in the making. One caller at a time.
class HessianLeaf {
 public:
  // Takes the Hessian and a buffer of 256 tokens from `arena`. REQUIRES: IsSupported(isa); the pool
  // outlives the leaf.
  static absl::StatusOr<HessianLeaf> Make(int64_t channels, Isa isa, Arena* arena,
                                          ThreadPool* pool);

  // The next tokens: BF16 values, token t begins at x + t * stride. How tokens are cut into calls
  // does not show in the result. A NaN or an infinity shows up in the diagonal, where FactorHessian
  // refuses it.
  void Add(const uint16_t* x, int64_t tokens, int64_t stride);

  // What was added. The leaf is spent.
  Hessian Finish();

 private:
  HessianLeaf() = default;
  void Sum(const uint16_t* x, int64_t tokens, int64_t stride);

  Isa isa_ = Isa::kReference;
  ThreadPool* pool_ = nullptr;
  Hessian sum_;
  Buffer pending_;  // BF16 [256][channels]: tokens that do not fill a call of the kernel yet
  int64_t pending_tokens_ = 0;
};

// Merges leaves, given in ascending order, over Tree; at most four sums are held between calls.
class HessianTree {
 public:
  // REQUIRES: as HessianLeaf.
  HessianTree(Isa isa, ThreadPool* pool) : isa_(isa), pool_(pool) {}

  // REQUIRES: as many channels as the leaves before it.
  void Push(Hessian leaf);
  // REQUIRES: a leaf was pushed. The tree is spent.
  Hessian Finish();

 private:
  struct Part {
    Hessian sum;
    int64_t leaves = 0;
  };
  void MergeLast();

  Isa isa_;
  ThreadPool* pool_;
  std::vector<Part> parts_;
};

// All of it for tokens that are in memory: leaves, then Tree. Errors: kOutOfMemory.
absl::StatusOr<Hessian> HessianOf(const uint16_t* x, int64_t tokens, int64_t channels,
                                  int64_t stride, Isa isa, Arena* arena, ThreadPool* pool);

}  // namespace octavo
