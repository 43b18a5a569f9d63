// Any bytes as config.json, and after a NUL as generation_config.json: a typed error, or a model
// whose tensors can be listed and whose config, written again, gives the same model. A
// quantization_config is read against the tensors that a quantized folder of that model has.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/config_json.h"
#include "core/checkpoint/hf_config.h"
#include "core/model/family.h"
#include "core/scheme/recipe.h"

namespace {

using octavo::Reason;

void CheckTyped(const absl::Status& status) {
  const Reason reason = octavo::ReasonOf(status);
  OCTAVO_CHECK(reason == Reason::kBadCheckpoint || reason == Reason::kUnsupported);
}

octavo::v1::ModelTensor Tensor(const std::string& name, octavo::v1::TensorRole role, int32_t layer,
                               octavo::v1::DType dtype, const std::vector<int64_t>& shape) {
  octavo::v1::ModelTensor tensor;
  tensor.mutable_spec()->set_name(name);
  tensor.mutable_spec()->set_dtype(dtype);
  tensor.mutable_spec()->mutable_shape()->Add(shape.begin(), shape.end());
  tensor.set_role(role);
  tensor.set_layer(layer);
  return tensor;
}

void ReadAsQuantized(std::string_view config, const std::vector<octavo::ExpectedTensor>& tensors) {
  constexpr size_t kTensorsMax = 500;  // a model of millions has nothing more to say
  const auto tree = octavo::ParseJsonObject(config, "config.json");
  if (!tree.ok() || !tree->contains("quantization_config") || tensors.size() > kTensorsMax) return;
  std::vector<octavo::v1::ModelTensor> folder;
  for (const octavo::ExpectedTensor& tensor : tensors) {
    const bool codes = octavo::IsQuantizable(tensor.role);
    folder.push_back(Tensor(tensor.name, tensor.role, tensor.layer,
                            codes ? octavo::v1::F8_E4M3 : octavo::v1::BF16, tensor.shape));
    if (!codes) continue;
    const std::string module(octavo::ModuleName(tensor.name));
    for (const char* part : {".weight_scale", ".input_scale"}) {
      folder.push_back(Tensor(module + part, octavo::v1::IGNORED, -1, octavo::v1::F32, {}));
    }
  }
  const auto quantization = octavo::ReadQuantization(*tree, folder);
  if (!quantization.ok()) return CheckTyped(quantization.status());
  OCTAVO_CHECK(quantization->tensors.size() == folder.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find('\0');
  const std::string_view generation =
      cut == input.npos ? std::string_view() : input.substr(cut + 1);
  const auto spec = octavo::ParseConfig(input.substr(0, cut), generation);
  if (!spec.ok()) {
    CheckTyped(spec.status());
    return 0;
  }
  const auto tensors = octavo::ExpectedTensors(*spec);
  OCTAVO_CHECK(tensors.ok() && !tensors->empty());
  ReadAsQuantized(input.substr(0, cut), *tensors);
  const auto again =
      octavo::ParseConfig(octavo::ConfigText(*spec), octavo::GenerationConfigText(*spec));
  OCTAVO_CHECK(again.ok());
  OCTAVO_CHECK(again->SerializeAsString() == spec->SerializeAsString());
  return 0;
}
