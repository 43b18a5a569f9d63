#include "core/checkpoint/checkpoint.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/checkpoint/bitmask_storage.h"
#include "core/checkpoint/config_json.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/index.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/side_files.h"
#include "core/model/family.h"
#include "core/store/local_store.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr std::string_view kFetchAgain = "Download the checkpoint again";

absl::Status Bad(std::string_view what, std::string_view file, std::string_view tensor = {},
                 std::string_view cure = kFetchAgain) {
  return MakeError(Reason::kBadCheckpoint, what, {file, tensor, std::nullopt}, cure);
}

bool Has(std::span<const DirEntry> entries, std::string_view name) {
  return std::any_of(entries.begin(), entries.end(),
                     [&](const DirEntry& entry) { return entry.name == name; });
}

// What is there instead of safetensors files decides the advice.
absl::Status NoWeights(std::span<const DirEntry> entries, const std::string& dir) {
  for (const DirEntry& entry : entries) {
    if (entry.name.ends_with(".gguf")) {
      return MakeError(Reason::kUnsupported, "GGUF weights cannot be read in place",
                       {.file = JoinPath(dir, entry.name)}, "Convert them with `octavo import`");
    }
    if (entry.name.ends_with(".bin") || entry.name.ends_with(".pt") ||
        entry.name.ends_with(".pth")) {
      return MakeError(Reason::kUnsupported, "pickled weights are not read: they can run code",
                       {.file = JoinPath(dir, entry.name)},
                       "Get the safetensors files of the model, or save it with "
                       "save_pretrained(safe_serialization=True)");
    }
    if (entry.name.ends_with(".safetensors")) {
      return Bad(fmt::format("{} is missing", kIndexFileName), JoinPath(dir, entry.name));
    }
  }
  return MakeError(Reason::kInputMissing, "no safetensors files", {.file = dir}, "Check the path");
}

struct Weights {
  std::vector<std::string> files;    // sorted
  std::optional<TensorIndex> index;  // nothing: a single file
};

absl::StatusOr<Weights> FindWeights(const Store& store, const std::string& dir,
                                    std::span<const DirEntry> entries) {
  Weights weights;
  const bool single = Has(entries, kSingleFileName);
  if (!Has(entries, kIndexFileName)) {
    if (!single) return NoWeights(entries, dir);
    weights.files = {std::string(kSingleFileName)};
    return weights;
  }
  OCTAVO_ASSIGN_OR_RETURN(const std::string text,
                          ReadWhole(store, JoinPath(dir, kIndexFileName), kIndexFileMax));
  OCTAVO_ASSIGN_OR_RETURN(weights.index, ParseIndex(text, kIndexFileName));
  std::set<std::string_view> named;
  for (const auto& [tensor, file] : weights.index->weight_map) {
    if (!named.insert(file).second) continue;
    if (!Has(entries, file)) {
      return MakeError(Reason::kInputMissing, "shard named by the index is not there",
                       {file, tensor, std::nullopt}, "The download is incomplete: finish it");
    }
  }
  for (const DirEntry& entry : entries) {
    // Servers would pass such a shard by in silence.
    if (entry.name.starts_with("model") && entry.name.ends_with(".safetensors") &&
        !named.contains(entry.name)) {
      return Bad("the index names nothing in this file", entry.name, {},
                 "Remove the file, or restore the index that belongs to it");
    }
  }
  weights.files.assign(named.begin(), named.end());
  return weights;
}

absl::Status CheckAgainstIndex(const TensorIndex& index, const std::string& file,
                               std::span<const v1::TensorSpec> tensors) {
  for (const v1::TensorSpec& tensor : tensors) {
    const auto it = index.weight_map.find(tensor.name());
    if (it == index.weight_map.end()) {
      return Bad("tensor is not in the index", file, tensor.name());
    }
    if (it->second != file) {
      return Bad(fmt::format("the index says the tensor is in {}", it->second), file,
                 tensor.name());
    }
  }
  return absl::OkStatus();
}

// Reads all headers; every tensor once, the index exact both ways.
absl::StatusOr<std::vector<v1::TensorSpec>> ReadHeaders(const Store& store, const Weights& weights,
                                                        Checkpoint& checkpoint) {
  std::vector<v1::TensorSpec> all;
  for (const std::string& name : weights.files) {
    OCTAVO_ASSIGN_OR_RETURN(SafetensorsFile file, ReadSafetensors(store, checkpoint.dir, name));
    if (weights.index) {
      OCTAVO_RETURN_IF_ERROR(CheckAgainstIndex(*weights.index, name, file.tensors));
    }
    v1::SourceFile source;
    source.set_name(name);
    source.set_size(file.size);
    source.set_mtime_ns(file.mtime_ns);
    source.mutable_header_digest()->set_low(file.header_digest.low);
    source.mutable_header_digest()->set_high(file.header_digest.high);
    checkpoint.files.push_back(std::move(source));
    std::move(file.tensors.begin(), file.tensors.end(), std::back_inserter(all));
  }
  // Each tensor is where the index says, so equal numbers mean that no entry is left over.
  if (weights.index && all.size() != weights.index->weight_map.size()) {
    std::set<std::string_view> present;
    for (const v1::TensorSpec& tensor : all) present.insert(tensor.name());
    for (const auto& [tensor, file] : weights.index->weight_map) {
      if (!present.contains(tensor)) {
        return Bad("the index names a tensor that the file does not hold", file, tensor);
      }
    }
  }
  return all;
}

absl::Status CheckShape(const v1::TensorSpec& tensor, std::span<const int64_t> want) {
  if (std::equal(tensor.shape().begin(), tensor.shape().end(), want.begin(), want.end())) {
    return absl::OkStatus();
  }
  return MakeError(Reason::kBadCheckpoint,
                   fmt::format("shape [{}] is not [{}] as config.json says",
                               fmt::join(tensor.shape(), ", "), fmt::join(want, ", ")),
                   {tensor.file(), tensor.name(), tensor.begin()},
                   "config.json and weights do not belong together");
}

// "P.w1" of "P.w1_weight_scale" and "P.w1_input_scale"; nothing for any other name.
std::string_view StackOfScale(std::string_view name) {
  for (const std::string_view part : {"_weight_scale", "_input_scale"}) {
    if (name.ends_with(part)) return name.substr(0, name.size() - part.size());
  }
  return {};
}

// Layer and expert of the module that a scale belongs to; outside layers when it has none.
TensorPlace PlaceOfScale(std::string_view name, const Family& family, const v1::ModelSpec& model) {
  // "X.input_scale" belongs to "X.weight", and "P.w1_input_scale" of a stack to "P.w1_weight".
  std::string weight = std::string(name.substr(0, name.rfind('.'))) + ".weight";
  if (!StackOfScale(name).empty()) weight = std::string(StackOfScale(name)) + "_weight";
  TensorPlace place = RoleOf(weight, family, model).value_or(TensorPlace{});
  place.role = v1::IGNORED;
  return place;
}

absl::StatusOr<TensorPlace> PlaceOf(const v1::TensorSpec& tensor, const Family& family,
                                    const Checkpoint& checkpoint) {
  const v1::ModelSpec& model = checkpoint.model;
  const std::optional<TensorPlace> place = RoleOf(tensor.name(), family, model);
  if (!place || (place->role != v1::IGNORED && !IsPresent(*place->row, model))) {
    if (checkpoint.quantized && IsScaleName(tensor.name())) {
      return PlaceOfScale(tensor.name(), family, model);
    }
    return MakeError(checkpoint.quantized ? Reason::kUnsupported : Reason::kBadCheckpoint,
                     fmt::format("tensor has no place in a {} model", family.name),
                     {tensor.file(), tensor.name(), tensor.begin()},
                     "config.json and weights do not belong together, or the model has parts that "
                     "Octavo does not know");
  }
  if (place->role == v1::IGNORED) return *place;
  if (place->layer >= model.layer_count() || place->expert >= model.expert_count()) {
    return Bad(fmt::format("tensor is outside the {} layers and {} experts of config.json",
                           model.layer_count(), model.expert_count()),
               tensor.file(), tensor.name(), "config.json and weights do not belong together");
  }
  OCTAVO_RETURN_IF_ERROR(CheckShape(tensor, ShapeOf(*place->row, model)));
  const DType dtype = FromProto(tensor.dtype());
  if (!IsSourceFloat(dtype) && !checkpoint.quantized) {
    return MakeError(Reason::kUnsupported, fmt::format("dtype {} of a weight", Name(dtype)),
                     {tensor.file(), tensor.name(), tensor.begin()},
                     "Weights must be F32, F16 or BF16; 8-bit ones need a quantization_config");
  }
  return *place;
}

absl::Status CheckComplete(const Checkpoint& checkpoint, size_t placed) {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<ExpectedTensor> expected,
                          ExpectedTensors(checkpoint.model));
  if (expected.size() == placed) return absl::OkStatus();
  std::set<std::string_view> present;
  for (const v1::ModelTensor& tensor : checkpoint.tensors) present.insert(tensor.spec().name());
  for (const ExpectedTensor& tensor : expected) {
    if (!present.contains(tensor.name)) {
      return Bad("tensor is missing", checkpoint.dir, tensor.name);
    }
  }
  return MakeError(Reason::kInternal, "tensors were counted wrongly", {.file = checkpoint.dir});
}

absl::Status PlaceTensors(std::vector<v1::TensorSpec> specs, Checkpoint& checkpoint) {
  const Family& family = *FamilyByName(checkpoint.model.family());
  for (const v1::TensorSpec& spec : specs) {
    if (checkpoint.model.spelling() != 0) break;
    checkpoint.model.set_spelling(SpellingOf(spec.name(), family));
  }
  struct Placed {
    uint64_t key;
    v1::ModelTensor tensor;
  };
  std::vector<Placed> placed;
  placed.reserve(specs.size());
  size_t used = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    OCTAVO_ASSIGN_OR_RETURN(const TensorPlace place, PlaceOf(specs[i], family, checkpoint));
    used += place.role != v1::IGNORED ? 1 : 0;
    Placed item{place.role == v1::IGNORED ? UINT64_MAX : OrderKey(place, family), {}};
    *item.tensor.mutable_spec() = std::move(specs[i]);
    item.tensor.set_role(place.role);
    item.tensor.set_layer(place.layer);
    item.tensor.set_expert(place.expert);
    placed.push_back(std::move(item));
  }
  std::sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return std::tie(a.key, a.tensor.spec().name()) < std::tie(b.key, b.tensor.spec().name());
  });
  for (size_t i = 0; i < placed.size(); ++i) {
    if (i > 0 && placed[i].tensor.spec().name() == placed[i - 1].tensor.spec().name()) {
      return Bad(fmt::format("tensor is in {} too", placed[i - 1].tensor.spec().file()),
                 placed[i].tensor.spec().file(), placed[i].tensor.spec().name());
    }
    checkpoint.tensors.push_back(std::move(placed[i].tensor));
  }
  return CheckComplete(checkpoint, used);
}

absl::Status ReadModel(const Store& store, std::span<const DirEntry> entries,
                       Checkpoint& checkpoint) {
  if (!Has(entries, "config.json")) {
    const absl::Status weights = NoWeights(entries, checkpoint.dir);
    if (ReasonOf(weights) == Reason::kUnsupported) return weights;
    return MakeError(Reason::kInputMissing, "no config.json", {.file = checkpoint.dir},
                     "Give the folder of a Hugging Face checkpoint");
  }
  OCTAVO_ASSIGN_OR_RETURN(
      const std::string config,
      ReadWhole(store, JoinPath(checkpoint.dir, "config.json"), kConfigFileMax));
  std::string generation;
  if (Has(entries, "generation_config.json")) {
    OCTAVO_ASSIGN_OR_RETURN(
        generation,
        ReadWhole(store, JoinPath(checkpoint.dir, "generation_config.json"), kConfigFileMax));
  }
  OCTAVO_ASSIGN_OR_RETURN(checkpoint.model, ParseConfig(config, generation));
  OCTAVO_ASSIGN_OR_RETURN(checkpoint.quantized, HasQuantization(config));
  OCTAVO_ASSIGN_OR_RETURN(checkpoint.config, ParseJsonObject(config, "config.json"));
  return absl::OkStatus();
}

}  // namespace

bool IsScaleName(std::string_view name) {
  constexpr std::array<std::string_view, 12> kParts = {
      "weight_scale",     "weight_scale_inv", "weight_zero_point", "input_scale",
      "input_zero_point", "output_scale",     "k_scale",           "v_scale",
      "q_scale",          "kv_scale",         "k_zero_point",      "v_zero_point"};
  if (!StackOfScale(name).empty()) return true;
  const size_t dot = name.rfind('.');
  return dot != std::string_view::npos &&
         std::find(kParts.begin(), kParts.end(), name.substr(dot + 1)) != kParts.end();
}

absl::StatusOr<Checkpoint> OpenCheckpoint(const Store& store, const std::string& dir,
                                          Accept accept) {
  Checkpoint checkpoint;
  checkpoint.dir = dir;
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<DirEntry> entries, store.List(dir));
  OCTAVO_RETURN_IF_ERROR(ReadModel(store, entries, checkpoint));
  if (checkpoint.quantized && accept == Accept::kPlainOnly) {
    return MakeError(
        Reason::kUnsupported, "the checkpoint is quantized already",
        {.file = JoinPath(dir, "config.json")},
        "Quantize the original BF16, F16 or F32 checkpoint, or what `octavo dequantize` makes "
        "of this one");
  }
  OCTAVO_ASSIGN_OR_RETURN(const Weights weights, FindWeights(store, dir, entries));
  OCTAVO_ASSIGN_OR_RETURN(std::vector<v1::TensorSpec> specs,
                          ReadHeaders(store, weights, checkpoint));
  if (SaysBitmasks(checkpoint.config)) {
    OCTAVO_ASSIGN_OR_RETURN(specs, JoinBitmasks(store, dir, std::move(specs)));
  }
  OCTAVO_RETURN_IF_ERROR(PlaceTensors(std::move(specs), checkpoint));
  checkpoint.side_files = SideFilesOf(entries);
  if (checkpoint.model.dtype() == v1::DTYPE_UNSPECIFIED) {
    checkpoint.model.set_dtype(checkpoint.tensors.front().spec().dtype());
  }
  return checkpoint;
}

absl::StatusOr<Checkpoint> OpenCheckpoint(const std::string& dir) {
  return OpenCheckpoint(LocalStore(), dir, Accept::kPlainOrQuantized);
}

}  // namespace octavo
