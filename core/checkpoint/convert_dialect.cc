#include "core/checkpoint/convert_dialect.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <span>
#include <vector>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/dialect.h"
#include "core/checkpoint/index.h"
#include "core/checkpoint/quantization_json.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/staging.h"
#include "core/scheme/legality.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr uint64_t kChunkBytes = 4u << 20;
// Says which bytes the source has; the copy has others.
constexpr std::string_view kManifest = "octavo_manifest.json";

// One tensor of the copy, and where its values come from.
struct Copied {
  NewTensor target;
  const v1::TensorSpec* source;
  bool scale;
};

// Everything that the copy is made from.
struct Source {
  Checkpoint checkpoint;
  Quantization quantization;
  v1::Recipe recipe;  // what would have given such a folder in the new dialect
  std::vector<TensorScheme> schemes;
};

absl::StatusOr<Source> ReadSource(const Store& store, const std::string& dir,
                                  std::string_view dialect) {
  Source source;
  OCTAVO_ASSIGN_OR_RETURN(source.checkpoint, OpenCheckpoint(store, dir, Accept::kPlainOrQuantized));
  const Checkpoint& checkpoint = source.checkpoint;
  if (!checkpoint.quantized) {
    return MakeError(Reason::kUnsupported, "the folder is not quantized",
                     {.file = JoinPath(dir, "config.json")}, "Use `octavo quantize`");
  }
  OCTAVO_ASSIGN_OR_RETURN(source.quantization,
                          ReadQuantization(checkpoint.config, checkpoint.tensors));
  source.recipe.set_dialect(std::string(dialect));
  if (!source.quantization.cache_scales.empty()) {
    source.recipe.mutable_kv_cache()->set_type(v1::NUMERIC_FP8_E4M3);
    source.recipe.mutable_kv_cache()->set_granularity(v1::PER_TENSOR);
  }
  source.schemes.resize(checkpoint.tensors.size());
  for (size_t i = 0; i < source.schemes.size(); ++i) {
    const TensorQuantization& quantization = source.quantization.tensors[i];
    if (quantization.quantized) source.schemes[i] = {&quantization.scheme, v1::ABSMAX};
  }
  OCTAVO_RETURN_IF_ERROR(CheckSchemes(source.recipe, checkpoint.tensors, source.schemes));
  return source;
}

// The tensors that the copy has instead of tensor `i` of the source and its scales.
void AppendCopies(const Source& source, size_t i, std::vector<Copied>* copies) {
  const v1::ModelTensor& tensor = source.checkpoint.tensors[i];
  const TensorQuantization& quantization = source.quantization.tensors[i];
  const v1::ModelSpec& model = source.checkpoint.model;
  const std::string& dialect = source.recipe.dialect();
  const auto append = [&](ScaleShape scale, const v1::TensorSpec& from) {
    const DType dtype = dialect == kCompressedTensors ? FromProto(from.dtype()) : DType::kF32;
    copies->push_back({{std::move(scale.name), dtype, std::move(scale.shape)}, &from, true});
  };
  const v1::TensorSpec& spec = tensor.spec();
  const std::string name = quantization.quantized ? CodesNameOf(tensor) : spec.name();
  copies->push_back(
      {{name, FromProto(spec.dtype()), {spec.shape().begin(), spec.shape().end()}}, &spec, false});
  if (quantization.quantized) {
    append(WeightScaleOf(dialect, model, tensor, quantization.scheme.weight()), quantization.scale);
  }
  if (quantization.input_scale) {
    append(InputScaleOf(dialect, model, tensor), *quantization.input_scale);
  }
  if (source.quantization.cache_scales.empty()) return;
  for (CacheScale& cache : CacheScalesOf(dialect, tensor)) {
    const v1::CacheScales& scales = source.quantization.cache_scales[tensor.layer()];
    append(std::move(cache.scale), cache.point == v1::OBSERVED_KEY ? scales.key() : scales.value());
  }
}

class Converter {
 public:
  Converter(Store& store, const Source& source, std::string out_dir)
      : store_(store), source_(source), out_dir_(std::move(out_dir)) {}

  absl::StatusOr<Conversion> Run() {
    std::map<std::string, std::vector<Copied>> by_file;
    for (size_t i = 0; i < source_.schemes.size(); ++i) {
      if (source_.quantization.tensors[i].is_scale) continue;
      AppendCopies(source_, i, &by_file[source_.checkpoint.tensors[i].spec().file()]);
    }
    const int count = static_cast<int>(by_file.size());
    int number = 0;
    for (const auto& [file, copies] : by_file) {
      OCTAVO_RETURN_IF_ERROR(WriteFile(copies, ShardName(++number, count)));
    }
    if (count > 1) OCTAVO_RETURN_IF_ERROR(WriteText(kIndexFileName, BuildIndex(index_)));
    const Checkpoint& checkpoint = source_.checkpoint;
    OCTAVO_RETURN_IF_ERROR(WriteText(
        "config.json",
        QuantizedConfigText(checkpoint.config,
                            QuantizationConfigJson(source_.recipe, checkpoint.model,
                                                   checkpoint.tensors, source_.schemes))));
    for (const std::string& name : checkpoint.side_files) {
      if (name != kManifest) OCTAVO_RETURN_IF_ERROR(CopySideFile(name));
    }
    done_.from = TextMember(checkpoint.config["quantization_config"], "quant_method");
    return done_;
  }

 private:
  absl::Status WriteFile(std::span<const Copied> copies, const std::string& name) {
    std::vector<NewTensor> tensors;
    std::map<std::string_view, const Copied*> by_name;
    for (const Copied& copy : copies) {
      tensors.push_back(copy.target);
      by_name[copy.target.name] = &copy;
    }
    const BuiltHeader header = BuildHeader(tensors, name);
    const std::string path = JoinPath(out_dir_, name);
    OCTAVO_RETURN_IF_ERROR(store_.CreateFile(path, header.file_size, /*keep_existing=*/false));
    OCTAVO_RETURN_IF_ERROR(store_.WriteAt(path, 0, std::as_bytes(std::span(header.bytes))));
    for (const v1::TensorSpec& spec : header.tensors) {
      index_.weight_map[spec.name()] = name;
      index_.total_size += spec.end() - spec.begin();
      const Copied& copy = *by_name.at(spec.name());
      OCTAVO_RETURN_IF_ERROR(copy.scale ? WriteScale(copy, path, spec.begin())
                                        : CopyBytes(*copy.source, path, spec.begin()));
      done_.tensors += 1;
      done_.scales += copy.scale ? 1 : 0;
    }
    done_.bytes += header.file_size;
    return store_.Sync(path);
  }

  absl::Status CopyBytes(const v1::TensorSpec& from, const std::string& path, uint64_t to) {
    const std::string source = JoinPath(source_.checkpoint.dir, from.file());
    for (uint64_t at = from.begin(); at < from.end();) {
      buffer_.resize(std::min(kChunkBytes, from.end() - at));
      OCTAVO_RETURN_IF_ERROR(store_.ReadAt(source, at, buffer_));
      OCTAVO_RETURN_IF_ERROR(store_.WriteAt(path, to, buffer_));
      at += buffer_.size();
      to += buffer_.size();
    }
    return absl::OkStatus();
  }

  // Whole: the scales of a matrix are a row or a 16,384th of it.
  absl::Status WriteScale(const Copied& copy, const std::string& path, uint64_t to) {
    const v1::TensorSpec& from = *copy.source;
    const std::string source = JoinPath(source_.checkpoint.dir, from.file());
    buffer_.resize(from.end() - from.begin());
    OCTAVO_RETURN_IF_ERROR(store_.ReadAt(source, from.begin(), buffer_));
    const DType dtype = FromProto(from.dtype());
    const size_t size = ByteSize(dtype);
    std::vector<float> values(buffer_.size() / size);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = ValueAt(dtype, buffer_.data() + i * size);
      if (std::isfinite(values[i]) && values[i] > 0) continue;
      return MakeError(Reason::kNonFinite, fmt::format("scale {} is {}", i, values[i]),
                       {from.file(), from.name(), from.begin() + i * size},
                       "Quantize the model again");
    }
    if (copy.target.dtype == dtype) return store_.WriteAt(path, to, buffer_);
    return store_.WriteAt(path, to, std::as_bytes(std::span(values)));
  }

  static float ValueAt(DType dtype, const std::byte* bytes) {
    uint32_t word = 0;
    uint16_t half = 0;
    std::memcpy(&word, bytes, dtype == DType::kF32 ? 4 : 0);
    std::memcpy(&half, bytes, dtype == DType::kF32 ? 0 : 2);
    if (dtype == DType::kF32) return FloatFromBits(word);
    return dtype == DType::kBF16 ? F32FromBf16(half) : F32FromF16(half);
  }

  absl::Status CopySideFile(const std::string& name) {
    OCTAVO_ASSIGN_OR_RETURN(
        const std::string text,
        ReadWhole(store_, JoinPath(source_.checkpoint.dir, name), kSideFileMax));
    return WriteText(name, text);
  }

  absl::Status WriteText(std::string_view name, std::string_view text) {
    const std::string path = JoinPath(out_dir_, name);
    OCTAVO_RETURN_IF_ERROR(WriteWhole(store_, path, text));
    return store_.Sync(path);
  }

  Store& store_;
  const Source& source_;
  const std::string out_dir_;
  TensorIndex index_;
  std::vector<std::byte> buffer_;
  Conversion done_;
};

}  // namespace

absl::StatusOr<Conversion> ConvertDialect(Store& store, const std::string& dir,
                                          std::string_view dialect, const std::string& out_dir) {
  OCTAVO_ASSIGN_OR_RETURN(const Source source, ReadSource(store, dir, dialect));
  OCTAVO_ASSIGN_OR_RETURN(StagedFolder staged, StagedFolder::Create(&store, out_dir));
  OCTAVO_ASSIGN_OR_RETURN(const Conversion done, Converter(store, source, staged.path()).Run());
  OCTAVO_RETURN_IF_ERROR(staged.Publish());
  return done;
}

}  // namespace octavo
