#include "core/checkpoint/summary.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/checkpoint/bitmask_storage.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"

namespace octavo {
namespace {

uint64_t Elements(const v1::TensorSpec& tensor) {
  uint64_t elements = 1;
  for (int64_t dim : tensor.shape()) elements *= static_cast<uint64_t>(dim);
  return elements;
}

// Block formats cut rows and columns in 128s; readers refuse layers that do not divide.
void AddBlockRemarks(const CheckpointSummary& summary, std::vector<Remark>& remarks) {
  constexpr int64_t kBlock = 128;
  for (const RoleSummary& role : summary.roles) {
    const bool layer_matrix = role.shape.size() == 2 && !IsScaleName(role.example) &&
                              role.role != v1::EMBEDDING && role.role != v1::LM_HEAD &&
                              role.role != v1::ROUTER;
    if (!layer_matrix) continue;
    if (role.shape[0] % kBlock == 0 && role.shape[1] % kBlock == 0) continue;
    remarks.push_back(
        {role.example, fmt::format("[{}, {}] is no multiple of 128: vLLM and SGLang refuse such a "
                                   "layer in block formats (fp8-block)",
                                   role.shape[0], role.shape[1])});
  }
}

void AddModelRemarks(const Checkpoint& checkpoint, std::vector<Remark>& remarks) {
  const v1::ModelSpec& model = checkpoint.model;
  if (model.eos_token_ids().empty()) {
    remarks.push_back({"", "no eos_token_id: generation ends only at the token limit"});
  }
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    const auto& files = checkpoint.side_files;
    if (std::find(files.begin(), files.end(), name) == files.end()) {
      remarks.push_back({"", fmt::format("no {}: it can be quantized but not served", name)});
    }
  }
  for (const v1::ModelTensor& tensor : checkpoint.tensors) {
    if (tensor.role() == v1::IGNORED && !IsScaleName(tensor.spec().name())) {
      remarks.push_back({tensor.spec().name(), "is not used by this architecture"});
    }
  }
}

std::string Scaled(double value, double step, std::string_view names) {
  size_t unit = 0;
  while (value >= step && unit + 1 < names.size()) {
    value /= step;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : 1, names[unit]);
}

}  // namespace

CheckpointSummary Summarize(const Checkpoint& checkpoint) {
  CheckpointSummary summary;
  std::map<std::string, size_t> seen;
  std::map<int, DTypeSummary> dtypes;
  for (const v1::ModelTensor& tensor : checkpoint.tensors) {
    const v1::TensorSpec& spec = tensor.spec();
    const uint64_t bytes = StoredBytes(spec);
    const uint64_t elements = Elements(spec);
    const bool scale = checkpoint.quantized && IsScaleName(spec.name());
    summary.tensors += 1;
    summary.bytes += bytes;
    summary.scale_tensors += scale ? 1 : 0;
    summary.parameters += scale || tensor.role() == v1::IGNORED ? 0 : elements;
    if (bytes > summary.largest_tensor_bytes) {
      summary.largest_tensor_bytes = bytes;
      summary.largest_tensor = spec.name();
    }
    DTypeSummary& dtype = dtypes[spec.dtype()];
    dtype.dtype = spec.dtype();
    dtype.tensors += 1;
    dtype.parameters += elements;
    dtype.bytes += bytes;
    const std::string key =
        fmt::format("{} {} {}", static_cast<int>(tensor.role()), static_cast<int>(spec.dtype()),
                    fmt::join(spec.shape(), ","));
    const auto [it, fresh] = seen.emplace(key, summary.roles.size());
    if (fresh) {
      summary.roles.push_back({.role = tensor.role(),
                               .dtype = spec.dtype(),
                               .shape = {spec.shape().begin(), spec.shape().end()},
                               .example = spec.name()});
    }
    RoleSummary& role = summary.roles[it->second];
    role.count += 1;
    role.parameters += elements;
    role.bytes += bytes;
  }
  for (const auto& [number, dtype] : dtypes) summary.dtypes.push_back(dtype);
  for (const v1::SourceFile& file : checkpoint.files) summary.file_bytes += file.size();
  const v1::ModelSpec& model = checkpoint.model;
  summary.kv_bytes_per_token =
      static_cast<uint64_t>(2 * model.layer_count() * model.kv_head_count() * model.head_dim()) *
      sizeof(uint16_t);
  AddBlockRemarks(summary, summary.remarks);
  AddModelRemarks(checkpoint, summary.remarks);
  return summary;
}

std::string HumanBytes(uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  return Scaled(static_cast<double>(bytes) / 1024.0, 1024.0, "KMGTPE") + "iB";
}

std::string HumanCount(uint64_t count) {
  if (count < 1000) return fmt::format("{}", count);
  return Scaled(static_cast<double>(count) / 1000.0, 1000.0, "KMBT");
}

}  // namespace octavo
