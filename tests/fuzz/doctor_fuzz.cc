// Any bytes as config.json of a folder that holds what a quantized model of that config would:
// doctor comes to an end, every finding has a rule, and each reader's verdict is the worst of its
// findings.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/checkpoint/config_json.h"
#include "core/checkpoint/hf_config.h"
#include "core/doctor/diagnosis.h"
#include "core/model/family.h"
#include "core/scheme/recipe.h"

namespace {

constexpr size_t kTensorsMax = 500;  // a model of millions has nothing more to say

void Put(const std::string& name, octavo::v1::DType dtype, std::vector<int64_t> shape,
         octavo::Folder* folder) {
  octavo::v1::TensorSpec& spec = folder->files.front().tensors.emplace_back();
  spec.set_name(name);
  spec.set_file(folder->files.front().name);
  spec.set_dtype(dtype);
  spec.mutable_shape()->Add(shape.begin(), shape.end());
}

void PutTensors(octavo::Folder* folder) {
  const auto expected = octavo::ExpectedTensors(*folder->model);
  if (!expected.ok() || expected->size() > kTensorsMax) return;
  for (const octavo::ExpectedTensor& tensor : *expected) {
    const bool codes = octavo::IsQuantizable(tensor.role);
    Put(tensor.name, codes ? octavo::v1::F8_E4M3 : octavo::v1::BF16, tensor.shape, folder);
    if (!codes) continue;
    const std::string module(octavo::ModuleName(tensor.name));
    Put(module + ".weight_scale", octavo::v1::F32, {tensor.shape[0], 1}, folder);
    Put(module + ".input_scale", octavo::v1::F32, {}, folder);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  octavo::Folder folder;
  folder.dir = "fuzz";
  folder.names = {"config.json", "model.safetensors", "tokenizer.json"};
  octavo::FolderFile& file = folder.files.emplace_back();
  file.name = "model.safetensors";
  file.present = true;
  const auto config = octavo::ParseJsonObject(text, "config.json");
  folder.config_status = config.status();
  if (config.ok()) {
    folder.config = *config;
    folder.model = octavo::ParseConfig(text, "");
    if (folder.model.ok()) PutTensors(&folder);
  }
  const octavo::Diagnosis diagnosis = octavo::Diagnose(folder);
  std::array<octavo::Verdict, 3> worst = {};
  for (const octavo::Finding& finding : diagnosis.findings) {
    const octavo::Rule& rule = octavo::RuleOf(finding.symptom);
    OCTAVO_CHECK(rule.symptom == finding.symptom);
    for (size_t i = 0; i < worst.size(); ++i) {
      worst[i] = std::max(worst[i], rule.claims[i].verdict);
    }
  }
  OCTAVO_CHECK(worst == diagnosis.verdicts);
  return 0;
}
