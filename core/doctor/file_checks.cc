#include <algorithm>

#include "core/base/error.h"
#include "core/checkpoint/checkpoint.h"
#include "core/doctor/checks.h"
#include "fmt/format.h"

namespace octavo {
namespace {

std::string Text(const absl::Status& status) { return std::string(status.message()); }

void CheckConfig(const Folder& folder, Findings* findings) {
  if (!folder.config_status.ok()) {
    const bool missing = !folder.names.contains("config.json");
    findings->push_back({.symptom = missing ? Symptom::kConfigMissing : Symptom::kConfigMalformed,
                         .what = missing ? "no config.json" : Text(folder.config_status),
                         .file = "config.json"});
  } else if (!folder.model.ok()) {
    const bool family = ReasonOf(folder.model.status()) == Reason::kUnsupported;
    findings->push_back({.symptom = family ? Symptom::kFamilyUnknown : Symptom::kConfigRejected,
                         .what = Text(folder.model.status()),
                         .file = "config.json"});
  }
}

void CheckSideFiles(const Folder& folder, Findings* findings) {
  if (!folder.names.contains("tokenizer.json") && !folder.names.contains("tokenizer.model")) {
    findings->push_back({.symptom = Symptom::kTokenizerMissing,
                         .what = "neither tokenizer.json nor tokenizer.model",
                         .file = "tokenizer.json"});
  }
  if (!folder.names.contains("generation_config.json")) {
    findings->push_back({.symptom = Symptom::kGenerationConfigMissing,
                         .what = "no generation_config.json: config.json says what ends a text",
                         .file = "generation_config.json"});
  }
}

void CheckShard(const FolderFile& file, Findings* findings) {
  if (!file.present) {
    findings->push_back({.symptom = Symptom::kShardMissing,
                         .what = "the index names this file, and it is not there",
                         .file = file.name});
  } else if (!file.indexed) {
    findings->push_back({.symptom = Symptom::kShardNotIndexed,
                         .what = "the index names nothing in this file",
                         .file = file.name});
  } else if (!file.status.ok()) {
    findings->push_back(
        {.symptom = Symptom::kHeaderMalformed, .what = Text(file.status), .file = file.name});
  }
}

// Index and files, both ways.
void CheckIndex(const Folder& folder, Findings* findings) {
  absl::flat_hash_map<std::string, std::string> where;
  for (const FolderFile& file : folder.files) {
    if (!file.indexed) continue;
    for (const v1::TensorSpec& spec : file.tensors) {
      const auto [first, fresh] = where.emplace(spec.name(), file.name);
      if (!fresh) {
        const bool differs = folder.differing.contains(spec.name());
        findings->push_back(
            {.symptom = differs ? Symptom::kTensorTwiceDiffers : Symptom::kTensorTwice,
             .what = fmt::format("the tensor is in {} too{}", first->second,
                                 differs ? ", with other bytes" : ""),
             .file = file.name,
             .tensor = spec.name()});
      } else if (folder.index && !folder.index->weight_map.contains(spec.name())) {
        findings->push_back({.symptom = Symptom::kIndexLacksTensor,
                             .what = "the tensor is not in the index",
                             .file = file.name,
                             .tensor = spec.name()});
      }
    }
  }
  if (!folder.index) return;
  for (const auto& [tensor, file] : folder.index->weight_map) {
    const auto found = where.find(tensor);
    if (found != where.end() && found->second == file) continue;
    const auto shard = std::find_if(folder.files.begin(), folder.files.end(),
                                    [&](const FolderFile& one) { return one.name == file; });
    if (shard == folder.files.end() || !shard->present || !shard->status.ok()) continue;
    // Twice is said above.
    const bool held = std::any_of(shard->tensors.begin(), shard->tensors.end(),
                                  [&](const auto& spec) { return spec.name() == tensor; });
    if (held) continue;
    findings->push_back({.symptom = found == where.end() ? Symptom::kIndexNamesNothing
                                                         : Symptom::kIndexNamesOtherFile,
                         .what = found == where.end()
                                     ? "the index names a tensor that the file does not hold"
                                     : fmt::format("the tensor is in {}", found->second),
                         .file = file,
                         .tensor = tensor});
  }
}

bool AnyTensor(const Folder& folder) {
  return std::any_of(folder.files.begin(), folder.files.end(),
                     [](const FolderFile& file) { return !file.tensors.empty(); });
}

}  // namespace

bool CheckFiles(const Folder& folder, Findings* findings) {
  CheckConfig(folder, findings);
  CheckSideFiles(folder, findings);
  if (!folder.index_status.ok()) {
    findings->push_back({.symptom = Symptom::kIndexMalformed,
                         .what = Text(folder.index_status),
                         .file = std::string(kIndexFileName)});
  } else if (folder.files.empty()) {
    findings->push_back(
        {.symptom = Symptom::kWeightsMissing, .what = "no safetensors files", .file = folder.dir});
  } else if (!folder.index && !folder.names.contains(kSingleFileName)) {
    findings->push_back({.symptom = Symptom::kIndexMissing,
                         .what = "several files of weights and no index",
                         .file = std::string(kIndexFileName)});
  }
  bool whole = folder.config_status.ok() && folder.index_status.ok() && folder.model.ok();
  for (const FolderFile& file : folder.files) {
    CheckShard(file, findings);
    whole = whole && file.present && file.status.ok();
  }
  CheckIndex(folder, findings);
  return whole && AnyTensor(folder);
}

}  // namespace octavo
