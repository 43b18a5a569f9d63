#pragma once

// What a measuring job found (coordinator/planner/sensitivity_plan.h): which linear layers hurt
// most when a recipe quantizes them. Pure: from a plan and the receipts of its units, the same bits
// on every cluster. octavo_sensitivity.json holds it (docs/formats.md, "Sensitivity").

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "octavo/v1/plan.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

inline constexpr char kSensitivityName[] = "octavo_sensitivity.json";

// Squared error over squared output, of some weights' outputs over all tokens they saw.
struct SensitivityErrors {
  double both = 0;     // as the layer will be served
  double weights = 0;  // of quantized weights alone
  double inputs = 0;   // of quantized inputs alone; 0 where they stay or are not measured
};

struct SensitivityTensor {
  std::string name;  // in the source
  v1::TensorRole role = v1::ROLE_UNSPECIFIED;
  int32_t expert = -1;
  uint64_t tokens = 0;
  uint64_t source_bytes = 0;
  uint64_t quantized_bytes = 0;  // codes and scales
  double squared_output = 0;
  SensitivityErrors errors;
};

// All weights of a layer that read the same thing, those of all experts together: what one
// decision is about. Errors are sums over its tensors, over the sum of squared outputs.
struct SensitivityGroup {
  int32_t layer = 0;
  v1::ObservedPoint point = v1::OBSERVED_UNSPECIFIED;
  bool inputs_measured = false;
  std::vector<SensitivityTensor> tensors;  // by expert, then as the layer has them
  uint64_t source_bytes = 0;
  uint64_t quantized_bytes = 0;
  SensitivityErrors errors;
  double share = 0;  // of the whole
};

struct Sensitivity {
  std::vector<SensitivityGroup> groups;  // what hurts most first; ties by layer and point
  double whole = 0;                      // sum of errors.both of all groups
  uint64_t samples = 0;
  uint64_t tokens = 0;
};

// `by_unit`: one receipt of every unit of `plan`, by unit id. Parts of a tensor's tokens merge over
// Tree in the order of units; tensors and groups add up in the order of units.
Sensitivity MakeSensitivity(const v1::Plan& plan, std::span<const v1::Receipt* const> by_unit);

std::string SensitivityText(const v1::Plan& plan, const Sensitivity& sensitivity);

// What SensitivityText wrote, but for what tensors are worth one by one. kBadData names `file` and
// what is wrong.
absl::StatusOr<Sensitivity> ParseSensitivity(std::string_view text, std::string_view file);

}  // namespace octavo
