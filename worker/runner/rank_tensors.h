#pragma once

// One rank's tensors by what they are, and what goes with a weight: its input's form, scales, bias.
// What the loaders of CPU weights (weights.h) and GPU weights (worker/gpu/gpu_weights.h) share.

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "octavo/v1/plan.pb.h"
#include "worker/runner/linear.h"
#include "worker/runner/read_tensor.h"
#include "worker/runner/shard_files.h"

namespace octavo {

class RankTensors {
 public:
  struct Place {
    int32_t layer = -1;
    v1::TensorRole role = v1::ROLE_UNSPECIFIED;
    int32_t expert = -1;
  };

  // `plan` and `files` outlive it.
  RankTensors(const v1::RankPlan& plan, ShardFiles* files);

  // Null: there is none.
  const v1::RankTensor* Find(Place place) const;
  // kInternal: the plan lacks it.
  absl::StatusOr<const v1::RankTensor*> Need(Place place) const;
  // A needed one-dimensional tensor as BF16.
  absl::StatusOr<std::vector<uint16_t>> Vector(Place place) const;
  // [channels] F32; empty where there is none or the role is ROLE_UNSPECIFIED.
  absl::StatusOr<std::vector<float>> Bias(Place place) const;

 private:
  ShardFiles* files_;
  std::map<std::tuple<int32_t, int, int32_t>, const v1::RankTensor*> by_place_;
};

// How the weight's input is brought into operand form.
InputForm InputFormOf(const v1::RankTensor& weight);

struct WeightScales {
  float input = 1;              // InputForm::kFp8Static
  std::vector<float> channels;  // [channels of the slice]; empty with block scales
  std::vector<float> blocks;    // [128-blocks down][across] of the whole tensor; empty without
};

// Of a weight with a scheme; `bounds` are ChannelBounds (pack_weights.h). kBadCheckpoint: a scale
// is missing, not finite or not > 0.
absl::StatusOr<WeightScales> ReadWeightScales(ShardFiles* files, const v1::RankTensor& weight,
                                              const SliceBounds& bounds);

}  // namespace octavo
