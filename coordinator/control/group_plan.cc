#include "coordinator/control/group_plan.h"

#include <algorithm>
#include <vector>

#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"

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
  if (!scheme.has_input()) return name + ", weights only";
  return name + (scheme.input().dynamic() ? ", dynamic inputs" : ", static inputs");
}

std::string LowerName(v1::DType dtype) {
  std::string name = v1::DType_Name(dtype);
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return name;
}

}  // namespace

absl::StatusOr<GroupPlan> PlanGroup(const std::string& model_dir, const ServeOptions& options) {
  OCTAVO_ASSIGN_OR_RETURN(const Checkpoint checkpoint, OpenCheckpoint(model_dir));
  OCTAVO_ASSIGN_OR_RETURN(const Quantization quantization,
                          ReadQuantization(checkpoint.config, checkpoint.tensors));
  GroupPlan out;
  out.format = LowerName(checkpoint.model.dtype());
  std::vector<ServedTensor> tensors;
  for (size_t i = 0; i < checkpoint.tensors.size(); ++i) {
    if (quantization.tensors[i].is_scale) continue;
    ServedTensor& tensor = tensors.emplace_back();
    tensor.tensor = checkpoint.tensors[i];
    if (!quantization.tensors[i].quantized) continue;
    tensor.scheme = quantization.tensors[i].scheme;
    tensor.scale = quantization.tensors[i].scale;
    tensor.input_scale = quantization.tensors[i].input_scale;
    out.format = NameOf(quantization.tensors[i].scheme);
  }
  if (options.head_type == v1::HEAD_FP8) out.format += ", fp8 head";
  OCTAVO_ASSIGN_OR_RETURN(
      out.plan, PlanServing(checkpoint.model, tensors, options, quantization.cache_scales));
  return out;
}

}  // namespace octavo
