#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "core/checkpoint/checkpoint.h"
#include "core/doctor/checks.h"
#include "core/model/family.h"
#include "core/scheme/recipe.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

// How the sizes of one kind of axis compare with config.json.
struct AxisTally {
  uint64_t equal = 0;
  uint64_t smaller = 0;
  uint64_t larger = 0;
  int64_t wanted = 0;
  int64_t found = 0;
  std::string example;
};

// Axes that one key of config.json decides.
enum class SizeKey { kHidden, kHeads, kKvHeads, kVocabulary, kMlp, kOther };

SizeKey KeyOf(Dim dim) {
  switch (dim) {
    case Dim::kHidden:
      return SizeKey::kHidden;
    case Dim::kQuery:
    case Dim::kFusedQkv:
      return SizeKey::kHeads;
    case Dim::kKeyValue:
      return SizeKey::kKvHeads;
    case Dim::kVocab:
      return SizeKey::kVocabulary;
    case Dim::kIntermediate:
    case Dim::kAllExperts:
      return SizeKey::kMlp;
    default:
      return SizeKey::kOther;
  }
}

class ModelChecker {
 public:
  ModelChecker(const Folder& folder, const v1::ModelSpec& model, const TensorMap& tensors,
               const Announcement& said, bool quantized, Findings* findings)
      : folder_(folder),
        model_(model),
        family_(*FamilyByName(model.family())),
        tensors_(tensors),
        said_(said),
        quantized_(quantized),
        findings_(findings) {}

  void Check() {
    const auto expected = ExpectedTensors(model_);
    if (!expected.ok()) return;
    for (const ExpectedTensor& tensor : *expected) {
      const auto found = tensors_.find(tensor.name);
      if (found == tensors_.end()) {
        Missing(tensor);
      } else {
        CountAxes(*found->second);
      }
    }
    for (const ExpectedTensor& tensor : *expected) {
      const auto found = tensors_.find(tensor.name);
      if (found != tensors_.end()) CheckShape(tensor, *found->second);
    }
    ReportSizes();
    for (const auto& [name, spec] : Sorted()) CheckPlace(*spec);
    CheckHead();
    CheckNumbers();
  }

 private:
  std::map<std::string, const v1::TensorSpec*> Sorted() const {
    return {tensors_.begin(), tensors_.end()};
  }

  void Add(Symptom symptom, std::string what, const std::string& tensor,
           const std::string& file = {}, std::string key = {}) {
    findings_->push_back({.symptom = symptom,
                          .what = std::move(what),
                          .file = file,
                          .tensor = tensor,
                          .key = std::move(key)});
  }

  void Missing(const ExpectedTensor& tensor) {
    const std::string module(ModuleName(tensor.name));
    const bool codes = said_.dialect == Dialect::kCompressedTensors && IsQuantizable(tensor.role) &&
                       said_.Of(module, true) != nullptr;
    Add(!quantized_ ? Symptom::kWeightMissingPlain
        : codes     ? Symptom::kCodesMissing
                    : Symptom::kWeightMissing,
        "the tensor is missing", tensor.name);
  }

  static std::vector<Dim> DimsOf(const TensorRow& row) {
    return row.columns == Dim::kNone ? std::vector<Dim>{row.rows}
                                     : std::vector<Dim>{row.rows, row.columns};
  }

  void CountAxes(const v1::TensorSpec& spec) {
    const auto place = RoleOf(spec.name(), family_, model_);
    if (!place || place->row == nullptr) return;
    const std::vector<Dim> dims = DimsOf(*place->row);
    const std::vector<int64_t> wanted = ShapeOf(*place->row, model_);
    if (static_cast<size_t>(spec.shape_size()) != dims.size()) return;
    for (size_t axis = 0; axis < dims.size(); ++axis) {
      AxisTally& tally = axes_[KeyOf(dims[axis])];
      const int64_t found = spec.shape(static_cast<int>(axis));
      if (found == wanted[axis]) {
        ++tally.equal;
        continue;
      }
      ++(found < wanted[axis] ? tally.smaller : tally.larger);
      tally.wanted = wanted[axis];
      tally.found = found;
      tally.example = spec.name();
    }
  }

  // All tensors disagree with the key in one way: the key is wrong, not the tensors.
  bool KeyIsWrong(SizeKey key) const {
    const auto found = axes_.find(key);
    if (found == axes_.end() || key == SizeKey::kOther) return false;
    const AxisTally& tally = found->second;
    const uint64_t wrong = tally.smaller + tally.larger;
    if (tally.smaller > 0 && tally.larger > 0) return false;
    return wrong > 1 && tally.equal == 0;
  }

  void CheckShape(const ExpectedTensor& tensor, const v1::TensorSpec& spec) {
    if (std::equal(spec.shape().begin(), spec.shape().end(), tensor.shape.begin(),
                   tensor.shape.end())) {
      return;
    }
    const auto place = RoleOf(spec.name(), family_, model_);
    if (place && place->row != nullptr &&
        static_cast<size_t>(spec.shape_size()) == tensor.shape.size()) {
      const std::vector<Dim> dims = DimsOf(*place->row);
      bool own = false;  // an axis is wrong whose key is right
      for (size_t axis = 0; axis < dims.size(); ++axis) {
        own = own || (spec.shape(static_cast<int>(axis)) != tensor.shape[axis] &&
                      !KeyIsWrong(KeyOf(dims[axis])));
      }
      if (!own) return;
    }
    Add(Symptom::kWeightShape,
        fmt::format("its shape is [{}], not [{}]", fmt::join(spec.shape(), ", "),
                    fmt::join(tensor.shape, ", ")),
        spec.name(), spec.file());
  }

  void ReportSizes() {
    const auto report = [&](SizeKey size, Symptom smaller, Symptom larger, std::string_view key) {
      if (!KeyIsWrong(size)) return;
      const AxisTally& tally = axes_[size];
      // The config is smaller where the tensors are larger.
      Add(tally.larger > 0 ? smaller : larger,
          fmt::format("{} leads to {} where tensors have {}", key, tally.wanted, tally.found),
          tally.example, "config.json", std::string(key));
      if (!quantized_ && !std::exchange(told_sizes_, true)) {
        Add(Symptom::kSizesUnquantized, "the model is not quantized, and sizes differ",
            tally.example, "config.json");
      }
    };
    const ConfigKeys& keys = family_.keys;
    report(SizeKey::kHidden, Symptom::kSizeHidden, Symptom::kSizeHidden, keys.hidden_size);
    report(SizeKey::kHeads, Symptom::kSizeHeadsSmaller, Symptom::kSizeHeadsLarger, keys.head_count);
    report(SizeKey::kKvHeads, Symptom::kSizeKvHeadsSmaller, Symptom::kSizeKvHeadsLarger,
           keys.kv_head_count);
    report(SizeKey::kVocabulary, Symptom::kSizeVocabularySmaller, Symptom::kSizeVocabularyLarger,
           keys.vocab_size);
    report(SizeKey::kMlp, Symptom::kSizeMlpSmaller, Symptom::kSizeMlpLarger,
           keys.intermediate_size);
  }

  void CheckPlace(const v1::TensorSpec& spec) {
    const std::string& name = spec.name();
    const auto place = RoleOf(name, family_, model_);
    const bool scale =
        IsScaleName(name) || name.ends_with(".weight_packed") || name.ends_with(".weight_shape");
    if (place && place->row != nullptr && place->layer >= model_.layer_count()) {
      if (std::exchange(told_layers_, true)) return;
      Add(Symptom::kLayersFewer,
          fmt::format("config.json has {} layers, and there are tensors of layer {}",
                      model_.layer_count(), place->layer),
          name, spec.file(), std::string(family_.keys.layer_count));
    } else if (place && (place->role == v1::IGNORED || IsPresent(*place->row, model_)) &&
               place->expert < std::max<int64_t>(1, model_.expert_count())) {
      return;
    } else if (name.ends_with(".bias")) {
      Add(Symptom::kBiasUnknown, "the model has no such bias", name, spec.file());
    } else if (!scale || !quantized_) {
      Add(Symptom::kTensorUnknown, fmt::format("a {} has no such tensor", family_.name), name,
          spec.file());
    }
  }

  void CheckHead() {
    const auto head = tensors_.find("lm_head.weight");
    if (!model_.tied_embeddings() || head == tensors_.end()) return;
    if (folder_.same_head) {
      Add(Symptom::kHeadStray, "a copy of the embedding that it is tied to", head->first,
          head->second->file());
    } else {
      Add(Symptom::kHeadDiffers, "config.json ties it to the embedding, and it holds other numbers",
          head->first, head->second->file(), "tie_word_embeddings");
    }
  }

  void CheckNumbers() {
    for (const auto& [name, counts] : folder_.values) {
      if (counts.not_finite == 0 || IsScaleName(name)) continue;
      const auto found = tensors_.find(name);
      if (found == tensors_.end() || !IsSourceFloat(FromProto(found->second->dtype()))) continue;
      Add(Symptom::kWeightNotFinite,
          fmt::format("{} numbers are NaN or infinite", counts.not_finite), name,
          found->second->file());
    }
  }

  const Folder& folder_;
  const v1::ModelSpec& model_;
  const Family& family_;
  const TensorMap& tensors_;
  const Announcement& said_;
  bool quantized_;
  Findings* findings_;
  std::map<SizeKey, AxisTally> axes_;
  bool told_layers_ = false;
  bool told_sizes_ = false;
};

}  // namespace

std::set<std::string> LayersBeyond(const v1::ModelSpec& model, const TensorMap& tensors) {
  const Family& family = *FamilyByName(model.family());
  std::set<std::string> prefixes;
  for (const auto& [name, spec] : tensors) {
    const auto place = RoleOf(name, family, model);
    if (!place || place->layer < model.layer_count()) continue;
    const std::string number = fmt::format(".{}.", place->layer);
    const size_t at = name.find(number);
    if (at != std::string::npos) prefixes.insert(name.substr(0, at + number.size()));
  }
  return prefixes;
}

void CheckModel(const Folder& folder, const v1::ModelSpec& model, const TensorMap& tensors,
                const Announcement& said, bool quantized, Findings* findings) {
  ModelChecker(folder, model, tensors, said, quantized, findings).Check();
}

}  // namespace octavo
