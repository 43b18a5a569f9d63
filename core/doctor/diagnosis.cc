#include "core/doctor/diagnosis.h"

#include <algorithm>

#include "core/doctor/announcement.h"
#include "core/doctor/checks.h"
#include "core/model/family.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"

namespace octavo {
namespace {

TensorMap TensorsOf(const Folder& folder) {
  TensorMap tensors;
  for (const FolderFile& file : folder.files) {
    if (!file.indexed) continue;
    for (const v1::TensorSpec& spec : file.tensors) tensors[spec.name()] = &spec;
  }
  return tensors;
}

v1::ModelSpec Spelled(v1::ModelSpec model, const TensorMap& tensors) {
  const Family& family = *FamilyByName(model.family());
  for (const auto& [name, spec] : tensors) {
    const int32_t spelling = SpellingOf(name, family);
    if (spelling == 0) continue;
    model.set_spelling(spelling);
    break;
  }
  return model;
}

// Quantized tensors without a word of it in config.json: true if there are any.
bool CheckUnsaid(const TensorMap& tensors, const Announcement& said, Findings* findings) {
  if (said.present) return false;
  for (const auto& [name, spec] : tensors) {
    if (!name.ends_with(".weight_scale") && !name.ends_with(".weight_scale_inv")) continue;
    const std::string weight = name.substr(0, name.rfind('.')) + ".weight";
    const auto codes = tensors.find(weight);
    if (codes == tensors.end() || ByteSize(FromProto(codes->second->dtype())) != 1) continue;
    findings->push_back({.symptom = Symptom::kQuantizationGone,
                         .what = "there are codes and scales, and no quantization_config",
                         .file = "config.json",
                         .key = "quantization_config"});
    if (codes->second->dtype() == v1::I8) {
      findings->push_back({.symptom = Symptom::kIntegersUnannounced,
                           .what = "integers, and config.json does not say that they are codes",
                           .file = codes->second->file(),
                           .tensor = weight});
    }
    return true;
  }
  return false;
}

// Where 2:4 weights are said to be stored as kept codes and bitmasks: whether any are.
void CheckBitmasks(const TensorMap& tensors, Findings* findings) {
  const auto packed = std::count_if(tensors.begin(), tensors.end(), [](const auto& tensor) {
    return tensor.second->has_bitmask();
  });
  findings->push_back(
      {.symptom = packed > 0 ? Symptom::kSparsityBitmask : Symptom::kSparsityDense,
       .what = packed > 0 ? fmt::format("{} weights are stored as sparse-24-bitmask", packed)
                          : std::string("format 'sparse-24-bitmask', and no weight is stored so"),
       .file = "config.json",
       .key = "quantization_config.sparsity_config"});
}

void Judge(const Folder& folder, Diagnosis* diagnosis) {
  for (const Finding& finding : diagnosis->findings) {
    const Rule& rule = RuleOf(finding.symptom);
    for (size_t i = 0; i < kReaders.size(); ++i) {
      diagnosis->verdicts[i] = std::max(diagnosis->verdicts[i], rule.claims[i].verdict);
    }
  }
  Verdict& own = diagnosis->verdicts[static_cast<size_t>(Reader::kOctavo)];
  diagnosis->loader_knows_more = !folder.loader.ok() && own != Verdict::kRefused;
  if (!folder.loader.ok()) own = Verdict::kRefused;
}

int Weight(const Finding& finding) {
  int weight = 0;
  for (const Claim& claim : RuleOf(finding.symptom).claims) {
    weight = std::max(weight, static_cast<int>(claim.verdict));
  }
  return weight;
}

}  // namespace

Diagnosis Diagnose(const Folder& folder) {
  Diagnosis diagnosis;
  Findings& findings = diagnosis.findings;
  const bool whole = CheckFiles(folder, &findings);
  Announcement said;
  if (folder.config_status.ok()) said = ReadAnnouncement(folder.config, &findings);
  diagnosis.dialect = std::string(Name(said.dialect));
  if (whole) {
    const TensorMap tensors = TensorsOf(folder);
    const v1::ModelSpec model = Spelled(*folder.model, tensors);
    const bool unsaid = CheckUnsaid(tensors, said, &findings);
    if (said.bitmasks) CheckBitmasks(tensors, &findings);
    CheckModel(folder, model, tensors, said, said.present || unsaid, &findings);
    // Where nobody knows the words, every weight would be told of for the same reason.
    const bool understood = said.dialect != Dialect::kNone || (!said.present && !unsaid);
    if (understood) {
      CheckQuantized(folder, model, tensors, said, &findings);
      CheckCodedHead(model, tensors, said, &findings);
    }
  }
  Judge(folder, &diagnosis);
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return Weight(a) > Weight(b); });
  return diagnosis;
}

}  // namespace octavo
