#include <map>

#include "coordinator/planner/plan_parts.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/dialect.h"
#include "core/checkpoint/index.h"
#include "core/checkpoint/safetensors.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"

namespace octavo {
namespace {

absl::Status CheckQuantizable(const v1::TensorSpec& spec) {
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
};

// What calibration adds beside one tensor.
std::vector<OwnScale> StaticScalesOf(const PlacedTensor& placed, const v1::ModelSpec& model,
                                     const v1::Recipe& recipe) {
  std::vector<OwnScale> scales;
  const v1::ModelTensor& tensor = *placed.source;
  if (placed.scheme.scheme != nullptr && HasStaticInput(*placed.scheme.scheme)) {
    scales.push_back({InputScaleOf(recipe.dialect(), model, tensor), InputPointOf(tensor.role())});
  }
  if (recipe.has_kv_cache()) {
    for (CacheScale& cache : CacheScalesOf(recipe.dialect(), tensor)) {
      scales.push_back({std::move(cache.scale), cache.point});
    }
  }
  return scales;
}

v1::StaticScale Placed(const OwnScale& own, int32_t layer, uint32_t file,
                       const v1::TensorSpec& spec) {
  v1::StaticScale scale;
  scale.set_tensor(own.tensor.name);
  scale.set_layer(layer);
  scale.set_expert(-1);
  scale.set_point(own.point);
  scale.set_dtype(ToProto(own.tensor.dtype));
  scale.set_count(static_cast<uint32_t>((spec.end() - spec.begin()) / ByteSize(own.tensor.dtype)));
  scale.mutable_out()->set_file(file);
  scale.mutable_out()->set_begin(spec.begin());
  scale.mutable_out()->set_end(spec.end());
  return scale;
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
        layout_->scales.push_back(
            Placed(own, source.layer(), output_file, *by_name.at(own.tensor.name)));
      }
      placed->output_file = output_file;
      if (placed->scheme.scheme == nullptr) {
        placed->weight_begin = by_name.at(source.spec().name())->begin();
        continue;
      }
      const ScaleShape scale = WeightScale(*placed);
      placed->weight_begin = by_name.at(CodesNameOf(source))->begin();
      placed->scale_begin = by_name.at(scale.name)->begin();
      placed->scale_dtype = ToProto(scale.dtype);
      placed->scale_bytes = ByteSize(scale.dtype);
    }
    v1::OutputFile* output = plan_->add_outputs();
    output->set_name(name);
    output->set_size(header.file_size);
    output->set_head(header.bytes);
  }

  const TensorIndex& index() const { return index_; }

 private:
  ScaleShape WeightScale(const PlacedTensor& placed) const {
    return WeightScaleOf(recipe_.dialect(), model_, *placed.source, placed.scheme.scheme->weight());
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
    for (OwnScale& own : StaticScalesOf(placed, model_, recipe_)) append(std::move(own.tensor));
    tensors->push_back(std::move(tensor));
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
    if (schemes[i].scheme != nullptr) OCTAVO_RETURN_IF_ERROR(CheckQuantizable(tensor.spec()));
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
