#include <map>
#include <utility>
#include <vector>

#include "coordinator/planner/plan_parts.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/bitmask_storage.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/dialect.h"
#include "core/checkpoint/index.h"
#include "core/checkpoint/safetensors.h"
#include "core/scheme/compat.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"

namespace octavo {
namespace {

bool HasBitmasks(const v1::Recipe& recipe) {
  return recipe.storage() == v1::STORAGE_SPARSE_24_BITMASK;
}

DType StoredIn(const CompatMode& mode, DType of_dialect) {
  return mode.bf16_scales ? DType::kBF16 : of_dialect;
}

absl::Status CheckQuantizable(const v1::TensorSpec& spec, const v1::Recipe& recipe) {
  const CompatMode& mode = CompatModeOf(recipe.compat());
  if (mode.tensor_scales_only && spec.dtype() != v1::BF16) {
    return MakeError(Reason::kUnsupported,
                     fmt::format("compat {} is known for BF16 weights, not for {}", mode.name,
                                 Name(FromProto(spec.dtype()))),
                     {.file = spec.file(), .tensor = spec.name()}, "Leave out --compat");
  }
  if (HasBitmasks(recipe) && spec.shape_size() == 2 && spec.shape(1) % 4 != 0) {
    return MakeError(Reason::kUnsupported,
                     fmt::format("its {} columns are no multiple of four, so that it cannot be "
                                 "stored as {}",
                                 spec.shape(1), StorageName(recipe.storage())),
                     {.file = spec.file(), .tensor = spec.name()}, "Leave out storage");
  }
  if (spec.shape_size() == 2 && IsSourceFloat(FromProto(spec.dtype())) &&
      spec.end() > spec.begin()) {
    return absl::OkStatus();
  }
  return MakeError(Reason::kUnsupported,
                   fmt::format("cannot quantize a {}-dimensional tensor of dtype {}",
                               spec.shape_size(), Name(FromProto(spec.dtype()))),
                   {.file = spec.file(), .tensor = spec.name()},
                   "Sources are BF16, F16 or F32 matrices");
}

// A static scale beside one tensor, before it has a place.
struct OwnScale {
  ScaleShape tensor;
  v1::ObservedPoint point;
  std::vector<v1::ObservedPoint> also = {};
  bool of_input = true;
};

// Where the scale of the keys or values looks, `point` being where our own does.
OwnScale CacheScaleIn(const CompatMode& mode, CacheScale cache, v1::TensorRole role) {
  OwnScale own{std::move(cache.scale), cache.point, {}, false};
  if (!mode.projected_cache) return own;
  const bool key = own.point == v1::OBSERVED_KEY;
  own.point = key ? v1::OBSERVED_KEY_PROJECTED : v1::OBSERVED_VALUE_PROJECTED;
  if (!mode.joint_cache) return own;
  own.also.push_back(key ? v1::OBSERVED_VALUE_PROJECTED : v1::OBSERVED_KEY_PROJECTED);
  // Fused, it is the output of one layer, queries and all.
  if (role == v1::FUSED_QKV) own.also.push_back(v1::OBSERVED_QUERY_PROJECTED);
  return own;
}

// What calibration adds beside one tensor.
std::vector<OwnScale> StaticScalesOf(const PlacedTensor& placed, const v1::ModelSpec& model,
                                     const v1::Recipe& recipe) {
  std::vector<OwnScale> scales;
  const CompatMode& mode = CompatModeOf(recipe.compat());
  const v1::ModelTensor& tensor = *placed.source;
  if (placed.scheme.scheme != nullptr && HasStaticInput(*placed.scheme.scheme)) {
    scales.push_back({InputScaleOf(recipe.dialect(), model, tensor), InputPointOf(tensor.role())});
  }
  if (recipe.has_kv_cache()) {
    for (CacheScale& cache : CacheScalesOf(recipe.dialect(), tensor)) {
      scales.push_back(CacheScaleIn(mode, std::move(cache), tensor.role()));
    }
  }
  for (OwnScale& scale : scales) scale.tensor.dtype = StoredIn(mode, scale.tensor.dtype);
  return scales;
}

// The scale at its place: one number as often as the tensor has elements, or, of a stack whose
// experts are not tied, one for each.
void Place(const OwnScale& own, const PlacedTensor& placed, bool tied, uint32_t file,
           const v1::TensorSpec& spec, std::vector<v1::StaticScale>* scales) {
  const v1::ModelTensor& source = *placed.source;
  const auto size = static_cast<uint64_t>(ByteSize(own.tensor.dtype));
  const uint64_t elements = (spec.end() - spec.begin()) / size;
  const bool each = own.of_input && !tied && IsStack(source.role());
  const uint64_t parts = each ? elements : 1;
  for (uint64_t i = 0; i < parts; ++i) {
    v1::StaticScale& scale = scales->emplace_back();
    scale.set_tensor(own.tensor.name);
    scale.set_layer(source.layer());
    scale.set_expert(each ? static_cast<int32_t>(i) : own.of_input && !tied ? source.expert() : -1);
    scale.set_point(own.point);
    scale.mutable_also()->Add(own.also.begin(), own.also.end());
    scale.set_dtype(ToProto(own.tensor.dtype));
    scale.set_count(static_cast<uint32_t>(elements / parts));
    scale.mutable_out()->set_file(file);
    scale.mutable_out()->set_begin(spec.begin() + i * (elements / parts) * size);
    scale.mutable_out()->set_end(scale.out().begin() + elements / parts * size);
  }
}

class FileWriter {
 public:
  FileWriter(const v1::ModelSpec& model, const v1::Recipe& recipe, v1::Plan* plan, Layout* layout)
      : model_(model), recipe_(recipe), plan_(plan), layout_(layout) {}

  // Adds one tensor file of the output, mirroring one source file.
  void Add(std::span<PlacedTensor* const> inside, const std::string& name) {
    std::vector<NewTensor> tensors;
    for (const PlacedTensor* placed : inside) AppendNew(*placed, &tensors);
    const BuiltHeader header = BuildHeader(tensors, name);
    std::map<std::string_view, const v1::TensorSpec*> by_name;
    for (const v1::TensorSpec& spec : header.tensors) {
      by_name[spec.name()] = &spec;
      index_.weight_map[spec.name()] = name;
      index_.total_size += spec.end() - spec.begin();
    }
    const auto output_file = static_cast<uint32_t>(plan_->outputs_size());
    for (PlacedTensor* placed : inside) {
      const v1::ModelTensor& source = *placed->source;
      for (const OwnScale& own : StaticScalesOf(*placed, model_, recipe_)) {
        Place(own, *placed, CompatModeOf(recipe_.compat()).tied, output_file,
              *by_name.at(own.tensor.name), &layout_->scales);
      }
      placed->output_file = output_file;
      if (placed->scheme.scheme == nullptr) {
        placed->weight_begin = by_name.at(source.spec().name())->begin();
        continue;
      }
      const ScaleShape scale = WeightScale(*placed);
      if (HasBitmasks(recipe_)) {
        const BitmaskParts parts = PartsOf(*placed);
        placed->weight_begin = by_name.at(parts.kept.name)->begin();
        placed->bitmask_begin = by_name.at(parts.bits.name)->begin();
      } else {
        placed->weight_begin = by_name.at(CodesNameOf(source))->begin();
      }
      placed->scale_begin = by_name.at(scale.name)->begin();
      placed->scale_dtype = ToProto(scale.dtype);
      placed->scale_bytes = ByteSize(scale.dtype);
    }
    v1::OutputFile* output = plan_->add_outputs();
    output->set_name(name);
    output->set_size(header.file_size);
    output->set_head(header.bytes + ShapesAfter(header, inside));
  }

  const TensorIndex& index() const { return index_; }

 private:
  ScaleShape WeightScale(const PlacedTensor& placed) const {
    ScaleShape scale =
        WeightScaleOf(recipe_.dialect(), model_, *placed.source, placed.scheme.scheme->weight());
    scale.dtype = StoredIn(CompatModeOf(recipe_.compat()), scale.dtype);
    return scale;
  }

  BitmaskParts PartsOf(const PlacedTensor& placed) const {
    const v1::TensorSpec& spec = placed.source->spec();
    return BitmaskPartsOf(ModuleName(spec.name()), CodeDType(placed.scheme.scheme->weight().type()),
                          spec.shape(0), spec.shape(1));
  }

  // The shapes of 2:4 weights, which no unit writes. They have the largest type of all and lie
  // behind the header.
  std::string ShapesAfter(const BuiltHeader& header, std::span<PlacedTensor* const> inside) const {
    if (!HasBitmasks(recipe_)) return "";
    std::map<std::string, std::string> shapes;  // content by name
    for (const PlacedTensor* placed : inside) {
      if (placed->scheme.scheme == nullptr) continue;
      const v1::TensorSpec& spec = placed->source->spec();
      shapes[PartsOf(*placed).shape.name] = BitmaskShapeBytes(spec.shape(0), spec.shape(1));
    }
    std::string bytes;
    for (size_t i = 0; i < shapes.size(); ++i) bytes += shapes.at(header.tensors[i].name());
    return bytes;
  }

  // A source tensor as it will be stored, and its scales.
  void AppendNew(const PlacedTensor& placed, std::vector<NewTensor>* tensors) const {
    const v1::TensorSpec& spec = placed.source->spec();
    NewTensor tensor{
        spec.name(), FromProto(spec.dtype()), {spec.shape().begin(), spec.shape().end()}};
    const auto append = [&](ScaleShape scale) {
      tensors->push_back({std::move(scale.name), scale.dtype, std::move(scale.shape)});
    };
    if (placed.scheme.scheme != nullptr) {
      tensor.name = CodesNameOf(*placed.source);
      tensor.dtype = CodeDType(placed.scheme.scheme->weight().type());
      append(WeightScale(placed));
    }
    const bool halved = placed.scheme.scheme != nullptr && HasBitmasks(recipe_);
    for (OwnScale& own : StaticScalesOf(placed, model_, recipe_)) append(std::move(own.tensor));
    if (!halved) {
      tensors->push_back(std::move(tensor));
      return;
    }
    BitmaskParts parts = PartsOf(placed);
    for (NewTensor* part : {&parts.kept, &parts.bits, &parts.shape}) {
      tensors->push_back(std::move(*part));
    }
  }

  const v1::ModelSpec& model_;
  const v1::Recipe& recipe_;
  v1::Plan* plan_;
  Layout* layout_;
  TensorIndex index_;
};

void AddGeneratedFile(std::string_view name, std::string text, v1::Plan* plan) {
  v1::OutputFile* output = plan->add_outputs();
  output->set_name(std::string(name));
  output->set_size(text.size());
  output->set_head(std::move(text));
}

}  // namespace

absl::StatusOr<Layout> LayOutFiles(const Checkpoint& checkpoint, const v1::Recipe& recipe,
                                   std::span<const TensorScheme> schemes, v1::Plan* plan) {
  std::map<std::string_view, uint32_t> file_index;
  for (const v1::SourceFile& file : checkpoint.files) {
    file_index.emplace(file.name(), static_cast<uint32_t>(file_index.size()));
  }
  Layout layout;
  layout.tensors.resize(checkpoint.tensors.size());
  std::vector<std::vector<PlacedTensor*>> inside(checkpoint.files.size());
  for (size_t i = 0; i < layout.tensors.size(); ++i) {
    const v1::ModelTensor& tensor = checkpoint.tensors[i];
    if (schemes[i].scheme != nullptr) {
      OCTAVO_RETURN_IF_ERROR(CheckQuantizable(tensor.spec(), recipe));
    }
    const int64_t experts = IsStack(tensor.role()) ? checkpoint.model.expert_count() : 1;
    const auto file = file_index.find(tensor.spec().file());
    OCTAVO_CHECK(file != file_index.end());
    layout.tensors[i] = {.source = &tensor,
                         .scheme = schemes[i],
                         .source_file = file->second,
                         .expert_count = experts};
    inside[file->second].push_back(&layout.tensors[i]);
  }

  FileWriter writer(checkpoint.model, recipe, plan, &layout);
  const int count = static_cast<int>(checkpoint.files.size());
  for (int i = 0; i < count; ++i) writer.Add(inside[i], ShardName(i + 1, count));
  AddGeneratedFile(
      "config.json",
      QuantizedConfigText(checkpoint.config, QuantizationConfigJson(recipe, checkpoint.model,
                                                                    checkpoint.tensors, schemes)),
      plan);
  if (count > 1) AddGeneratedFile(kIndexFileName, BuildIndex(writer.index()), plan);
  return layout;
}

}  // namespace octavo
