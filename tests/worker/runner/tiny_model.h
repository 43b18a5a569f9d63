#pragma once

// Random small models on disk, in every format that the runner serves, and groups of runners over
// them.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/checksum.h"
#include "core/plan/serve_plan.h"
#include "kernels/isa.h"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/plan.pb.h"

namespace octavo::testing {

enum class Format {
  kBf16,
  kFp8Dynamic,
  kFp8Tensor,
  kFp8WeightOnly,
  kFp8Block,
  kInt8,
  kFp8Static,      // every input its own scale, BF16
  kFp8StaticTied,  // all inputs one scale, F32 without dimensions; weights per channel
};

bool IsStatic(Format format);

struct TinyModel {
  std::string dir;
  std::shared_ptr<void> folder;  // removes the folder with the last copy
  v1::ModelSpec spec;
  std::vector<ServedTensor> tensors;
  std::vector<v1::CacheScales> cache_scales;  // of a model with an FP8 cache
};

// Ragged in every dimension: hidden 80, 6 query and 3 KV heads of 20, inner 150, vocabulary 131.
// The MLP has five units of K, of which three ranks hold one, one and two (and two ranks two and
// three): merging their sums in the order of ranks is not merging them over the tree.
v1::ModelSpec RaggedSpec();
// The same with five experts of 150, two per token.
v1::ModelSpec MixtureSpec();
// A DBRX of the same size: fused q, k and v that are clipped, LayerNorm, stacked experts.
v1::ModelSpec DbrxSpec();
// For block scales: 3 KV groups of 128, inner 320.
v1::ModelSpec BlockSpec();

// Writes model.safetensors into a fresh folder under the test's temporary directory. `head`: the
// output head is in the format too; it is not of `kFp8Block` or static.
TinyModel WriteTinyModel(const v1::ModelSpec& spec, Format format, uint64_t seed,
                         bool fp8_cache = false, bool head = false);

struct RunSettings {
  uint32_t ranks = 1;
  int64_t chunk = 0;  // tokens per step; 0: all at once
  int threads = 1;
  Isa isa = BestIsa();
  bool shuffle_blocks = false;  // another block table
  v1::CacheType cache = v1::CACHE_AUTO;
  v1::HeadType head = v1::HEAD_AS_STORED;
};

// Digests of the logits of every position of `tokens`, and of its residual stream after each layer.
std::vector<Digest128> RunModel(const TinyModel& model, const std::vector<int32_t>& tokens,
                                const RunSettings& settings);

std::vector<int32_t> RandomTokens(int64_t count, int64_t vocab, uint64_t seed);

}  // namespace octavo::testing
