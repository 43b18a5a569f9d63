#include <map>

#include "coordinator/planner/plan_parts.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
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

// Adds one tensor file of the output, mirroring one source file.
void LayOutOneFile(std::vector<PlacedTensor*> inside, const std::string& name, v1::Plan* plan,
                   TensorIndex* index) {
  std::vector<NewTensor> tensors;
  for (const PlacedTensor* placed : inside) {
    const v1::TensorSpec& spec = placed->source->spec();
    NewTensor tensor{
        spec.name(), FromProto(spec.dtype()), {spec.shape().begin(), spec.shape().end()}};
    if (placed->scheme.scheme != nullptr) {
      const v1::NumericFormat& format = placed->scheme.scheme->weight();
      tensor.dtype = CodeDType(format.type());
      ScaleShape scale = ScaleShapeOf(spec, format);
      tensors.push_back({std::move(scale.name), scale.dtype, std::move(scale.shape)});
    }
    tensors.push_back(std::move(tensor));
  }
  const BuiltHeader header = BuildHeader(tensors, name);
  std::map<std::string_view, const v1::TensorSpec*> by_name;
  for (const v1::TensorSpec& spec : header.tensors) {
    by_name[spec.name()] = &spec;
    index->weight_map[spec.name()] = name;
    index->total_size += spec.end() - spec.begin();
  }
  const auto output_file = static_cast<uint32_t>(plan->outputs_size());
  for (PlacedTensor* placed : inside) {
    const v1::TensorSpec& spec = placed->source->spec();
    placed->output_file = output_file;
    placed->weight_begin = by_name.at(spec.name())->begin();
    if (placed->scheme.scheme == nullptr) continue;
    const ScaleShape scale = ScaleShapeOf(spec, placed->scheme.scheme->weight());
    placed->scale_begin = by_name.at(scale.name)->begin();
    placed->scale_dtype = ToProto(scale.dtype);
    placed->scale_bytes = ByteSize(scale.dtype);
  }
  v1::OutputFile* output = plan->add_outputs();
  output->set_name(name);
  output->set_size(header.file_size);
  output->set_head(header.bytes);
}

void AddGeneratedFile(std::string_view name, std::string text, v1::Plan* plan) {
  v1::OutputFile* output = plan->add_outputs();
  output->set_name(std::string(name));
  output->set_size(text.size());
  output->set_head(std::move(text));
}

}  // namespace

absl::StatusOr<std::vector<PlacedTensor>> LayOutFiles(const Checkpoint& checkpoint,
                                                      std::span<const TensorScheme> schemes,
                                                      v1::Plan* plan) {
  std::map<std::string_view, uint32_t> file_index;
  for (const v1::SourceFile& file : checkpoint.files) {
    file_index.emplace(file.name(), static_cast<uint32_t>(file_index.size()));
  }
  std::vector<PlacedTensor> placed(checkpoint.tensors.size());
  std::vector<std::vector<PlacedTensor*>> inside(checkpoint.files.size());
  for (size_t i = 0; i < placed.size(); ++i) {
    const v1::ModelTensor& tensor = checkpoint.tensors[i];
    if (schemes[i].scheme != nullptr) OCTAVO_RETURN_IF_ERROR(CheckQuantizable(tensor.spec()));
    const auto file = file_index.find(tensor.spec().file());
    OCTAVO_CHECK(file != file_index.end());
    placed[i] = {.source = &tensor, .scheme = schemes[i], .source_file = file->second};
    inside[file->second].push_back(&placed[i]);
  }

  TensorIndex index;
  const int count = static_cast<int>(checkpoint.files.size());
  for (int i = 0; i < count; ++i) LayOutOneFile(inside[i], ShardName(i + 1, count), plan, &index);
  AddGeneratedFile(
      "config.json",
      QuantizedConfigText(checkpoint.config,
                          QuantizationConfigJson(checkpoint.model, checkpoint.tensors, schemes)),
      plan);
  if (count > 1) AddGeneratedFile(kIndexFileName, BuildIndex(index), plan);
  return placed;
}

}  // namespace octavo
