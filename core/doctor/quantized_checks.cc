#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "core/checkpoint/checkpoint.h"
#include "core/doctor/checks.h"
#include "core/doctor/scale_grid.h"
#include "core/model/family.h"
#include "core/scheme/recipe.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

std::string ParentOf(std::string_view name) { return std::string(name.substr(0, name.rfind('.'))); }
std::string LeafOf(std::string_view name) { return std::string(name.substr(name.rfind('.') + 1)); }

bool IsEightBits(DType dtype) { return ByteSize(dtype) == 1; }

// The matrix that servers make of several layers, by the first of them; null for any other layer.
const std::vector<std::string_view>* FusedGroupOf(std::string_view leaf) {
  static const std::vector<std::string_view> kQkv = {"q_proj", "k_proj", "v_proj"};
  static const std::vector<std::string_view> kGateUp = {"gate_proj", "up_proj"};
  if (leaf == "q_proj") return &kQkv;
  return leaf == "gate_proj" ? &kGateUp : nullptr;
}

bool IsInFusedGroup(std::string_view leaf) {
  return leaf == "q_proj" || leaf == "k_proj" || leaf == "v_proj" || leaf == "gate_proj" ||
         leaf == "up_proj";
}

class QuantizedChecker {
 public:
  QuantizedChecker(const Folder& folder, const v1::ModelSpec& model, const TensorMap& tensors,
                   const Announcement& said, Findings* findings)
      : folder_(folder), model_(model), tensors_(tensors), said_(said), findings_(findings) {}

  void Check() {
    const auto expected = ExpectedTensors(model_);
    if (!expected.ok()) return;
    if (said_.packed) return CheckPacked();
    if (said_.present && said_.groups.empty()) return;  // told of where the groups lack
    for (const ExpectedTensor& tensor : *expected) {
      const auto found = tensors_.find(tensor.name);
      if (found == tensors_.end()) {
        // Its scales are no surplus: the weight is what lacks.
        UseAll(ModuleOf(tensor.name, tensor.role));
        continue;
      }
      CheckTensor(tensor, *found->second);
    }
    CheckGroups(*expected);
    CheckCache(*expected);
    CheckSurplus();
  }

 private:
  void Add(Symptom symptom, std::string what, const std::string& tensor,
           const std::string& file = {}) {
    findings_->push_back(
        {.symptom = symptom, .what = std::move(what), .file = file, .tensor = tensor});
  }

  // "P.w1" of a stack "P.w1_weight", "X" of "X.weight".
  static std::string ModuleOf(const std::string& name, v1::TensorRole role) {
    constexpr std::string_view kStacked = "_weight";
    if (IsStack(role) && name.ends_with(kStacked)) {
      return name.substr(0, name.size() - kStacked.size());
    }
    return std::string(ModuleName(name));
  }

  const v1::TensorSpec* Use(const std::string& name) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return nullptr;
    used_.insert(name);
    return found->second;
  }

  void UseAll(const std::string& module) {
    for (const char* end : {".weight_scale", ".weight_scale_inv", ".input_scale",
                            ".weight_zero_point", "_weight_scale", "_input_scale"}) {
      Use(module + end);
    }
  }

  void CheckPacked() {
    const bool packed = std::any_of(tensors_.begin(), tensors_.end(), [](const auto& tensor) {
      return tensor.first.ends_with(".weight_packed");
    });
    findings_->push_back(
        {.symptom = packed ? Symptom::kPacked : Symptom::kFormatPacked,
         .what = packed ? "weights are packed" : "says packed weights, and there are none",
         .file = "config.json",
         .key = "quantization_config.format"});
  }

  void CheckTensor(const ExpectedTensor& expected, const v1::TensorSpec& spec) {
    const v1::TensorRole role = expected.role;
    const bool outside = role == v1::LM_HEAD || role == v1::ROUTER;
    const bool linear = IsQuantizable(role) || (outside && !said_.layers_only);
    const DType dtype = FromProto(spec.dtype());
    const std::string module = ModuleOf(spec.name(), role);
    if (IsStack(role) && IsSourceFloat(dtype)) return;
    const Said* said = linear ? said_.Of(module, IsEightBits(dtype)) : nullptr;
    if (said == nullptr) return CheckPlain(module, spec);
    if (outside && IsSourceFloat(dtype)) {
      Add(role == v1::LM_HEAD ? Symptom::kHeadNotKept : Symptom::kRouterNotKept,
          "config.json does not list it among what stays, and its weight is not quantized", module,
          spec.file());
      return;
    }
    if (said->codes == DType::kInvalid || spec.shape_size() != 2) return UseAll(module);
    const bool stack = IsStack(role);
    if (stack && !std::exchange(told_stacks_, true)) {
      Add(Symptom::kStacksInTransformers, "the experts of a layer in one tensor of codes",
          spec.name(), spec.file());
    }
    const std::string end = stack ? "_weight_scale" : std::string(said_.weight_scale);
    const v1::TensorSpec* scale = Use(module + end);
    CheckCodes(*said, spec, scale != nullptr);
    if (IsSourceFloat(dtype)) return UseAll(module);
    CheckScale(*said, expected, spec, module + end, scale);
    if (said->asymmetric) Use(module + ".weight_zero_point");
    if (said->static_input) CheckInput(module, stack);
    if (said->input_open) Use(module + ".input_scale");
    CheckBlocks(*said, spec);
  }

  // A tensor that config.json does not say is quantized.
  void CheckPlain(const std::string& module, const v1::TensorSpec& spec) {
    if (!IsEightBits(FromProto(spec.dtype()))) return;
    const bool scaled =
        Use(module + ".weight_scale") != nullptr || Use(module + ".weight_scale_inv") != nullptr;
    UseAll(module);
    const bool kept = said_.Keeps(module);
    const bool integers = FromProto(spec.dtype()) == DType::kI8;
    Add(integers  ? Symptom::kIntegersUnannounced
        : !scaled ? Symptom::kCodesBare
        : kept    ? Symptom::kCodesKept
                  : Symptom::kCodesUnannounced,
        fmt::format("dtype {}, {}", Name(FromProto(spec.dtype())),
                    kept ? "and config.json lists it among what stays"
                         : "and config.json does not say that it is quantized"),
        spec.name(), spec.file());
  }

  void CheckCodes(const Said& said, const v1::TensorSpec& spec, bool scaled) {
    const DType dtype = FromProto(spec.dtype());
    if (dtype != said.codes) {
      const Symptom symptom = !IsSourceFloat(dtype) ? Symptom::kWeightOtherCodes
                              : scaled              ? Symptom::kWeightFloatBesideScale
                                                    : Symptom::kWeightFloat;
      Add(symptom, fmt::format("dtype {} where config.json says {}", Name(dtype), Name(said.codes)),
          spec.name(), spec.file());
      return;
    }
    const auto counts = folder_.values.find(spec.name());
    if (counts == folder_.values.end()) return;
    if (counts->second.not_finite > 0) {
      Add(Symptom::kCodeNan, fmt::format("{} codes are NaN", counts->second.not_finite),
          spec.name(), spec.file());
    }
    if (counts->second.lowest > 0) {
      Add(Symptom::kCodeLowest, fmt::format("{} codes are -128", counts->second.lowest),
          spec.name(), spec.file());
    }
  }

  void CheckScale(const Said& said, const ExpectedTensor& expected, const v1::TensorSpec& weight,
                  const std::string& name, const v1::TensorSpec* scale) {
    if (scale == nullptr) {
      Add(Symptom::kScaleMissing, fmt::format("its scale {} is missing", LeafOf(name)),
          weight.name(), weight.file());
      return;
    }
    CheckType(*scale);
    CheckValues(*scale, false);
    if (IsStack(expected.role)) return;
    // A scale that lies over the weight that config.json leads to: the weight is what is wrong.
    v1::TensorSpec meant = weight;
    meant.mutable_shape()->Assign(expected.shape.begin(), expected.shape.end());
    const Shape shape(scale->shape().begin(), scale->shape().end());
    if (meant.shape_size() == 2 && shape == GridOf(said, meant)) return;
    CheckScaleShape(said, weight, *scale);
  }

  void CheckScaleShape(const Said& said, const v1::TensorSpec& weight,
                       const v1::TensorSpec& scale) {
    const Shape wanted = GridOf(said, weight);
    const Shape shape(scale.shape().begin(), scale.shape().end());
    if (wanted.empty() || shape == wanted) return;
    if (said.grid == Grid::kTensor && shape.empty()) {
      if (said_.dialect == Dialect::kCompressedTensors) {
        Add(Symptom::kScaleScalar, "its shape is [] and not [1]", scale.name(), scale.file());
      }
      return;
    }
    if (said.grid == Grid::kTensor && shape == Shape{1, 1}) {
      Add(Symptom::kScaleTwoAxes, "its shape is [1, 1]", scale.name(), scale.file());
      return;
    }
    if (said.grid == Grid::kChannel && shape == Shape{wanted[0]}) {
      Add(Symptom::kScaleOneAxis,
          fmt::format("its shape is [{}] and not [{}, 1]", shape[0], shape[0]), scale.name(),
          scale.file());
      return;
    }
    const bool fp8_blocks = said_.dialect == Dialect::kFp8 && said.grid == Grid::kBlock;
    const Symptom symptom = said.grid == Grid::kTensor && shape == Shape{weight.shape(0), 1}
                                ? Symptom::kScalePerChannel
                            : fp8_blocks && CutsEvenly(shape, weight) ? Symptom::kScaleGrid
                            : LiesOver(shape, weight)                 ? Symptom::kScaleBroadcasts
                                                                      : Symptom::kScaleShape;
    Add(symptom,
        fmt::format("its shape is [{}], not [{}]", fmt::join(shape, ", "), fmt::join(wanted, ", ")),
        scale.name(), scale.file());
  }

  void CheckType(const v1::TensorSpec& scale) {
    const DType dtype = FromProto(scale.dtype());
    if (IsSourceFloat(dtype)) return;
    Add(dtype == DType::kF64 ? Symptom::kScaleDouble : Symptom::kScaleInteger,
        fmt::format("a scale of dtype {}", Name(dtype)), scale.name(), scale.file());
  }

  void CheckValues(const v1::TensorSpec& scale, bool input) {
    const auto found = folder_.values.find(scale.name());
    if (found == folder_.values.end()) return;
    const ValueCounts& counts = found->second;
    const auto add = [&](uint64_t count, Symptom weights, Symptom inputs, std::string_view what) {
      if (count == 0) return;
      Add(input ? inputs : weights, fmt::format("{} of its scales {}", count, what), scale.name(),
          scale.file());
    };
    add(counts.not_finite, Symptom::kScaleNotFinite, Symptom::kInputScaleValue,
        "are NaN or infinite");
    add(counts.zero, Symptom::kScaleZero, Symptom::kInputScaleValue, "are zero");
    add(counts.negative, Symptom::kScaleNegative, Symptom::kInputScaleNegative, "are negative");
    add(counts.tiny, Symptom::kScaleTiny, Symptom::kInputScaleTiny,
        fmt::format("are below {}", kTinyScale));
  }

  void CheckInput(const std::string& module, bool stack) {
    const std::string name = module + (stack ? "_input_scale" : ".input_scale");
    const v1::TensorSpec* scale = Use(name);
    if (scale == nullptr) {
      Add(IsInFusedGroup(LeafOf(module)) ? Symptom::kInputScaleMissingInGroup
                                         : Symptom::kInputScaleMissing,
          "the scale of its input is missing", name);
      return;
    }
    CheckType(*scale);
    CheckValues(*scale, true);
    const bool one =
        std::all_of(scale->shape().begin(), scale->shape().end(), [](int64_t n) { return n == 1; });
    if (!stack && !one) {
      Add(Symptom::kInputScaleShape,
          fmt::format("its shape is [{}], not that of one number", fmt::join(scale->shape(), ", ")),
          name, scale->file());
    }
  }

  void CheckBlocks(const Said& said, const v1::TensorSpec& weight) {
    if (said.input_group > 0 && weight.shape(1) % said.input_group != 0) {
      Add(Symptom::kGroupsRagged,
          fmt::format("its {} inputs are no multiple of the groups of {}", weight.shape(1),
                      said.input_group),
          weight.name(), weight.file());
    }
    if (said.grid != Grid::kBlock || said.block_rows <= 0 || said.block_columns <= 0) return;
    // Servers lay the parts of a group under one another, all but the last on whole blocks.
    const std::string leaf = LeafOf(ModuleName(weight.name()));
    const bool followed = leaf == "q_proj" || leaf == "k_proj" || leaf == "gate_proj";
    const bool rows = followed && weight.shape(0) % said.block_rows != 0;
    if (rows || weight.shape(1) % said.block_columns != 0) {
      Add(Symptom::kBlocksRagged,
          fmt::format("its shape [{}, {}] is no multiple of the block [{}, {}]", weight.shape(0),
                      weight.shape(1), said.block_rows, said.block_columns),
          weight.name(), weight.file());
    }
  }

  // Parts of one fused matrix: all kept or none, in one scheme.
  void CheckGroups(const std::vector<ExpectedTensor>& expected) {
    for (const ExpectedTensor& tensor : expected) {
      const std::string module = ModuleOf(tensor.name, tensor.role);
      const auto* group = FusedGroupOf(LeafOf(module));
      if (group == nullptr || !IsQuantizable(tensor.role)) continue;
      std::set<bool> kept;
      std::set<size_t> schemes;
      for (const std::string_view leaf : *group) {
        const std::string part = ParentOf(module) + "." + std::string(leaf);
        const auto found = tensors_.find(part + ".weight");
        if (found == tensors_.end()) continue;
        const Said* said = said_.Of(part, IsEightBits(FromProto(found->second->dtype())));
        kept.insert(said == nullptr);
        if (said != nullptr) schemes.insert(said->group);
      }
      if (kept.size() > 1) {
        Add(Symptom::kGroupKeptInPart,
            fmt::format("of {} some stay and some are quantized", fmt::join(*group, ", ")),
            ParentOf(module));
      } else if (schemes.size() > 1) {
        Add(Symptom::kGroupSchemes,
            fmt::format("{} have different schemes", fmt::join(*group, ", ")), ParentOf(module));
      }
    }
  }

  const v1::TensorSpec* CacheScale(const std::string& projection, const char* own) {
    const std::string attention = ParentOf(projection);
    for (const std::string& name : {attention + own, projection + ".output_scale"}) {
      if (const v1::TensorSpec* scale = Use(name)) return scale;
    }
    return Use(attention + ".kv_scale");
  }

  void CheckCacheScale(const std::string& projection, const char* own) {
    const v1::TensorSpec* scale = CacheScale(projection, own);
    if (scale == nullptr) {
      if (!said_.cache || !said_.cache_known) return;
      Add(Symptom::kCacheScaleMissing, "the scale of the layer's cache is missing",
          ParentOf(projection) + own);
      return;
    }
    if (!said_.cache_known) return;
    if (!said_.cache) {
      Add(Symptom::kCacheUnannounced, "a scale of the cache, and config.json says nothing of it",
          scale->name(), scale->file());
      return;
    }
    if (said_.dialect == Dialect::kCompressedTensors && scale->name().ends_with("output_scale")) {
      Add(Symptom::kCacheAsOutputs, "the scale of the cache is said as that of an output",
          scale->name(), scale->file());
    }
    CheckType(*scale);
    if (std::any_of(scale->shape().begin(), scale->shape().end(),
                    [](int64_t n) { return n != 1; })) {
      Add(Symptom::kCacheScaleShape,
          fmt::format("its shape [{}] is not that of one number", fmt::join(scale->shape(), ", ")),
          scale->name(), scale->file());
    }
    const auto counts = folder_.values.find(scale->name());
    if (counts == folder_.values.end()) return;
    if (counts->second.not_finite + counts->second.zero > 0) {
      Add(Symptom::kCacheScaleValue, "the scale is zero, NaN or infinite", scale->name(),
          scale->file());
    } else if (counts->second.negative > 0) {
      Add(Symptom::kCacheScaleNegative, "the scale is negative", scale->name(), scale->file());
    }
  }

  void CheckCache(const std::vector<ExpectedTensor>& expected) {
    for (const ExpectedTensor& tensor : expected) {
      const std::string module(ModuleName(tensor.name));
      const bool both = tensor.role == v1::FUSED_QKV;
      if (both || tensor.role == v1::K_PROJ) CheckCacheScale(module, ".k_scale");
      if (both || tensor.role == v1::V_PROJ) CheckCacheScale(module, ".v_scale");
    }
  }

  void CheckSurplus() {
    const std::set<std::string> beyond = LayersBeyond(model_, tensors_);
    std::map<std::string, const v1::TensorSpec*> sorted(tensors_.begin(), tensors_.end());
    for (const auto& [name, spec] : sorted) {
      if (!IsScaleName(name) || used_.contains(name)) continue;
      // Of a layer too many the layer is told, not each scale.
      if (std::any_of(beyond.begin(), beyond.end(),
                      [&](const std::string& layer) { return name.starts_with(layer); })) {
        continue;
      }
      Add(name.ends_with("zero_point") ? Symptom::kZeroPointSurplus : Symptom::kScaleSurplus,
          "it belongs to nothing that is quantized", name, spec->file());
    }
  }

  const Folder& folder_;
  const v1::ModelSpec& model_;
  const TensorMap& tensors_;
  const Announcement& said_;
  Findings* findings_;
  std::set<std::string> used_;
  bool told_stacks_ = false;
};

}  // namespace

void CheckQuantized(const Folder& folder, const v1::ModelSpec& model, const TensorMap& tensors,
                    const Announcement& said, Findings* findings) {
  QuantizedChecker(folder, model, tensors, said, findings).Check();
}

}  // namespace octavo
