#include "core/doctor/folder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/checkpoint/bitmask_storage.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/config_json.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/safetensors.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/dtype_proto.h"

namespace octavo {
namespace {

constexpr uint64_t kReadBytes = 4u << 20;
constexpr const char* kConfigName = "config.json";

void ReadConfig(const Store& store, Folder* folder) {
  if (!folder->names.contains(kConfigName)) {
    folder->config_status =
        MakeError(Reason::kInputMissing, "no config.json", {.file = folder->dir});
    return;
  }
  const auto text = ReadWhole(store, JoinPath(folder->dir, kConfigName), kConfigFileMax);
  std::string generation;
  if (folder->names.contains("generation_config.json")) {
    auto read = ReadWhole(store, JoinPath(folder->dir, "generation_config.json"), kConfigFileMax);
    if (read.ok()) generation = *std::move(read);
  }
  if (!text.ok()) {
    folder->config_status = text.status();
    return;
  }
  auto config = ParseJsonObject(*text, kConfigName);
  folder->config_status = config.status();
  if (!config.ok()) return;
  folder->config = *std::move(config);
  folder->model = ParseConfig(*text, generation);
}

void ReadIndex(const Store& store, Folder* folder) {
  if (!folder->names.contains(kIndexFileName)) return;
  const auto text =
      ReadWhole(store, JoinPath(folder->dir, std::string(kIndexFileName)), kIndexFileMax);
  folder->index_status = text.status();
  if (!text.ok()) return;
  auto index = ParseIndex(*text, kIndexFileName);
  folder->index_status = index.status();
  if (index.ok()) folder->index = *std::move(index);
}

void ReadFiles(const Store& store, Folder* folder) {
  std::set<std::string> wanted;
  for (const std::string& name : folder->names) {
    if (name.starts_with("model") && name.ends_with(".safetensors")) wanted.insert(name);
  }
  std::set<std::string_view> indexed;
  if (folder->index) {
    for (const auto& [tensor, file] : folder->index->weight_map) {
      indexed.insert(file);
      wanted.insert(file);
    }
  }
  for (const std::string& name : wanted) {
    FolderFile& file = folder->files.emplace_back();
    file.name = name;
    file.present = folder->names.contains(name);
    file.indexed = !folder->index || indexed.contains(name);
    if (!file.present) continue;
    auto read = ReadSafetensors(store, folder->dir, name);
    file.status = read.status();
    if (read.ok()) file.tensors = std::move(read->tensors);
  }
}

// Makes weights of kept codes and bitmasks, as the loader does. Those that cannot be stay what they
// are: the loader says what is wrong.
void JoinFolder(const Store& store, Folder* folder) {
  if (!folder->config_status.ok() || !SaysBitmasks(folder->config)) return;
  std::vector<v1::TensorSpec> all;
  for (const FolderFile& file : folder->files) {
    all.insert(all.end(), file.tensors.begin(), file.tensors.end());
  }
  const auto joined = JoinBitmasks(store, folder->dir, all);
  if (!joined.ok()) return;
  std::set<std::string_view> weights;
  for (const v1::TensorSpec& spec : *joined) weights.insert(spec.name());
  for (const v1::TensorSpec& spec : all) {  // the index names what the files hold
    if (weights.contains(spec.name()) || !folder->index) continue;
    const auto entry = folder->index->weight_map.find(spec.name());
    if (entry == folder->index->weight_map.end()) continue;
    const std::string weight = spec.name().substr(0, spec.name().rfind('.')) + ".weight";
    if (spec.name().ends_with(".compressed")) folder->index->weight_map[weight] = entry->second;
    folder->index->weight_map.erase(spec.name());
  }
  for (FolderFile& file : folder->files) {
    file.tensors.clear();
    for (const v1::TensorSpec& spec : *joined) {
      if (spec.file() == file.name) file.tensors.push_back(spec);
    }
  }
}

bool IsEightBit(DType dtype) { return ByteSize(dtype) == 1; }

void CountScale(double value, ValueCounts* counts) {
  if (!std::isfinite(value)) {
    ++counts->not_finite;
  } else if (value == 0) {
    ++counts->zero;
  } else if (value < 0) {
    ++counts->negative;
  } else if (value < kTinyScale) {
    ++counts->tiny;
  }
}

double FloatAt(DType dtype, const std::byte* at) {
  uint64_t bits = 0;
  std::memcpy(&bits, at, static_cast<size_t>(ByteSize(dtype)));
  switch (dtype) {
    case DType::kBF16:
      return F32FromBf16(static_cast<uint16_t>(bits));
    case DType::kF16:
      return F32FromF16(static_cast<uint16_t>(bits));
    case DType::kF32:
      return FloatFromBits(static_cast<uint32_t>(bits));
    default:
      return DoubleFromBits(bits);
  }
}

void CountBytes(DType dtype, bool scale, std::span<const std::byte> bytes, ValueCounts* counts) {
  if (IsEightBit(dtype)) {
    for (const std::byte byte : bytes) {
      const auto code = static_cast<uint8_t>(byte);
      if (dtype == DType::kF8E4M3) counts->not_finite += (code & 0x7f) == 0x7f ? 1 : 0;
      if (dtype == DType::kI8) counts->lowest += code == 0x80 ? 1 : 0;
    }
    return;
  }
  const auto size = static_cast<size_t>(ByteSize(dtype));
  for (size_t i = 0; i + size <= bytes.size(); i += size) {
    const double value = FloatAt(dtype, bytes.data() + i);
    if (scale) {
      CountScale(value, counts);
    } else {
      counts->not_finite += std::isfinite(value) ? 0 : 1;
    }
  }
}

absl::Status CountValues(const Store& store, const v1::TensorSpec& spec, Folder* folder) {
  const DType dtype = FromProto(spec.dtype());
  const bool scale = IsScaleName(spec.name());
  ValueCounts& counts = folder->values[spec.name()];
  std::vector<std::byte> buffer(std::min(kReadBytes, spec.end() - spec.begin()));
  for (uint64_t at = spec.begin(); at < spec.end();) {
    const auto part = std::span(buffer).first(std::min(kReadBytes, spec.end() - at));
    OCTAVO_RETURN_IF_ERROR(store.ReadAt(JoinPath(folder->dir, spec.file()), at, part));
    CountBytes(dtype, scale, part, &counts);
    at += part.size();
  }
  return absl::OkStatus();
}

absl::Status ReadValues(const Store& store, Depth depth, Folder* folder) {
  for (const FolderFile& file : folder->files) {
    for (const v1::TensorSpec& spec : file.tensors) {
      const DType dtype = FromProto(spec.dtype());
      const bool number = IsSourceFloat(dtype) || dtype == DType::kF64 || IsEightBit(dtype);
      const bool small = IsScaleName(spec.name()) || spec.shape_size() < 2;
      if (!number || (depth == Depth::kHeaders && !small)) continue;
      OCTAVO_RETURN_IF_ERROR(CountValues(store, spec, folder));
    }
  }
  return absl::OkStatus();
}

const v1::TensorSpec* FindTensor(const Folder& folder, std::string_view name) {
  for (const FolderFile& file : folder.files) {
    for (const v1::TensorSpec& spec : file.tensors) {
      if (spec.name() == name) return &spec;
    }
  }
  return nullptr;
}

absl::StatusOr<bool> SameBytes(const Store& store, const std::string& dir,
                               const v1::TensorSpec& one, const v1::TensorSpec& other) {
  const uint64_t size = one.end() - one.begin();
  if (one.dtype() != other.dtype() || size != other.end() - other.begin()) return false;
  std::vector<std::byte> first(kReadBytes), second(kReadBytes);
  for (uint64_t at = 0; at < size; at += kReadBytes) {
    const uint64_t count = std::min(kReadBytes, size - at);
    const auto a = std::span(first).first(count), b = std::span(second).first(count);
    OCTAVO_RETURN_IF_ERROR(store.ReadAt(JoinPath(dir, one.file()), one.begin() + at, a));
    OCTAVO_RETURN_IF_ERROR(store.ReadAt(JoinPath(dir, other.file()), other.begin() + at, b));
    if (std::memcmp(a.data(), b.data(), count) != 0) return false;
  }
  return true;
}

// Only where a head lies beside an embedding that it is tied to: whether the head is a copy.
absl::Status CompareHead(const Store& store, Folder* folder) {
  if (!folder->model.ok() || !folder->model->tied_embeddings()) return absl::OkStatus();
  const v1::TensorSpec* head = FindTensor(*folder, "lm_head.weight");
  const v1::TensorSpec* table = FindTensor(*folder, "model.embed_tokens.weight");
  if (head == nullptr || table == nullptr) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(folder->same_head, SameBytes(store, folder->dir, *head, *table));
  return absl::OkStatus();
}

absl::Status CompareTwice(const Store& store, Folder* folder) {
  std::map<std::string_view, const v1::TensorSpec*> seen;
  for (const FolderFile& file : folder->files) {
    if (!file.indexed) continue;
    for (const v1::TensorSpec& spec : file.tensors) {
      const auto [first, fresh] = seen.emplace(spec.name(), &spec);
      if (fresh) continue;
      OCTAVO_ASSIGN_OR_RETURN(const bool same, SameBytes(store, folder->dir, *first->second, spec));
      if (!same) folder->differing.insert(spec.name());
    }
  }
  return absl::OkStatus();
}

absl::Status AskLoader(const Store& store, const std::string& dir) {
  OCTAVO_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                          OpenCheckpoint(store, dir, Accept::kPlainOrQuantized));
  return ReadQuantization(checkpoint.config, checkpoint.tensors).status();
}

}  // namespace

absl::StatusOr<Folder> ReadFolder(const Store& store, const std::string& dir, Depth depth) {
  Folder folder;
  folder.dir = dir;
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<DirEntry> entries, store.List(dir));
  for (const DirEntry& entry : entries) {
    if (entry.regular) folder.names.insert(entry.name);
  }
  ReadConfig(store, &folder);
  ReadIndex(store, &folder);
  ReadFiles(store, &folder);
  JoinFolder(store, &folder);
  OCTAVO_RETURN_IF_ERROR(ReadValues(store, depth, &folder));
  OCTAVO_RETURN_IF_ERROR(CompareHead(store, &folder));
  OCTAVO_RETURN_IF_ERROR(CompareTwice(store, &folder));
  folder.loader = AskLoader(store, dir);
  return folder;
}

}  // namespace octavo
