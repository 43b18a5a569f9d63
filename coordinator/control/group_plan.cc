#include "coordinator/control/group_plan.h"

#include <algorithm>
#include <vector>

#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/plan/serve_plan.h"

namespace octavo {
namespace {

std::string NameOf(const v1::Scheme& scheme) {
  std::string name = scheme.weight().type() == v1::NUMERIC_INT8 ? "int8" : "fp8";
  switch (scheme.weight().granularity()) {
    case v1::PER_TENSOR:
      name += "-tensor";
      break;
    case v1::PER_CHANNEL:
      name += "-channel";
      break;
    case v1::PER_BLOCK:
      name += "-block";
      break;
    default:
      break;
  }
  return name + (scheme.has_input() ? ", dynamic inputs" : ", weights only");
}

std::string LowerName(v1::DType dtype) {
  std::string name = v1::DType_Name(dtype);
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return name;
}

}  // namespace

absl::StatusOr<GroupPlan> PlanGroup(const std::string& model_dir, uint32_t rank_count,
                                    int64_t max_model_len, uint64_t rank_memory_bytes) {
  OCTAVO_ASSIGN_OR_RETURN(const Checkpoint checkpoint, OpenCheckpoint(model_dir));
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<TensorQuantization> quantization,
                          ReadQuantization(checkpoint.config, checkpoint.tensors));
  GroupPlan out;
  out.format = LowerName(checkpoint.model.dtype());
  std::vector<ServedTensor> tensors;
  for (size_t i = 0; i < checkpoint.tensors.size(); ++i) {
    if (quantization[i].is_scale) continue;
    ServedTensor& tensor = tensors.emplace_back();
    tensor.tensor = checkpoint.tensors[i];
    if (!quantization[i].quantized) continue;
    tensor.scheme = quantization[i].scheme;
    tensor.scale = quantization[i].scale;
    out.format = NameOf(quantization[i].scheme);
  }
  const ServeOptions options{.rank_count = rank_count,
                             .max_model_len = max_model_len,
                             .rank_memory_bytes = rank_memory_bytes};
  OCTAVO_ASSIGN_OR_RETURN(out.plan, PlanServing(checkpoint.model, tensors, options));
  return out;
}

}  // namespace octavo
