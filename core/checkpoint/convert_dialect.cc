#include "core/checkpoint/convert_dialect.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <span>
#include <vector>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/checkpoint/bitmask_storage.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/dialect.h"
#include "core/checkpoint/index.h"
#include "core/checkpoint/quantization_json.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/staging.h"
#include "core/scheme/legality.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/dtype_proto.h"
#include "core/tensor/element.h"
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
  const TensorQuantization* codes = nullptr;  // `source` holds codes, and the copy values
};

// Everything that the copy is made from.
struct Source {
  Checkpoint checkpoint;
  Quantization quantization;
  v1::Recipe recipe;  // what would have given such a folder in the new dialect, if there is one
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
  source.schemes.resize(checkpoint.tensors.size());
  if (dialect.empty()) return source;
  source.recipe.set_dialect(std::string(dialect));
  if (!source.quantization.cache_scales.empty()) {
    source.recipe.mutable_kv_cache()->set_type(v1::NUMERIC_FP8_E4M3);
    source.recipe.mutable_kv_cache()->set_granularity(v1::PER_TENSOR);
  }
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

// Tensor `i` where nothing is quantized.
Copied PlainCopy(const Source& source, size_t i) {
  const v1::TensorSpec& spec = source.checkpoint.tensors[i].spec();
  const TensorQuantization& quantization = source.quantization.tensors[i];
  Copied copy{{spec.name(), FromProto(spec.dtype()), {spec.shape().begin(), spec.shape().end()}},
              &spec,
              false};
  if (!quantization.quantized) return copy;
  constexpr std::string_view kCodes = "_weight";  // follows the name of a stack (dialect.h)
  if (IsStack(source.checkpoint.tensors[i].role()) && copy.target.name.ends_with(kCodes)) {
    copy.target.name.resize(copy.target.name.size() - kCodes.size());
  }
  const DType dtype = FromProto(source.checkpoint.model.dtype());
  copy.target.dtype = IsSourceFloat(dtype) ? dtype : DType::kBF16;
  copy.codes = &quantization;
  return copy;
}

// Which of `count` scales of a weight is that of an element. Experts of a stack have one each, one
// after the other.
size_t ScaleIndex(const v1::TensorSpec& spec, const v1::NumericFormat& format, size_t count,
                  int64_t row, int64_t column) {
  switch (format.granularity()) {
    case v1::PER_CHANNEL:
      return static_cast<size_t>(row);
    case v1::PER_BLOCK:
      return static_cast<size_t>(row / format.block_rows() * ScaleGridOf(spec, format).back() +
                                 column / format.block_columns());
    default:
      return static_cast<size_t>(row / (spec.shape(0) / static_cast<int64_t>(count)));
  }
}

float CodeValue(v1::NumericType type, std::byte code) {
  const auto bits = static_cast<uint8_t>(code);
  return type == v1::NUMERIC_INT8 ? static_cast<float>(static_cast<int8_t>(bits))
                                  : F32FromFp8(bits);
}

int64_t RowsAtATime(const v1::TensorSpec& matrix) {
  return std::max<int64_t>(1, static_cast<int64_t>(kChunkBytes) / matrix.shape(1));
}

class Converter {
 public:
  Converter(Store& store, const Source& source, std::string out_dir)
      : store_(store), source_(source), out_dir_(std::move(out_dir)) {}

  absl::StatusOr<Conversion> Run() {
    std::map<std::string, std::vector<Copied>> by_file;
    for (size_t i = 0; i < source_.schemes.size(); ++i) {
      if (source_.quantization.tensors[i].is_scale) continue;
      std::vector<Copied>& copies = by_file[source_.checkpoint.tensors[i].spec().file()];
      if (is_plain()) {
        copies.push_back(PlainCopy(source_, i));
      } else {
        AppendCopies(source_, i, &copies);
      }
    }
    const int count = static_cast<int>(by_file.size());
    int number = 0;
    for (const auto& [file, copies] : by_file) {
      OCTAVO_RETURN_IF_ERROR(WriteFile(copies, ShardName(++number, count)));
    }
    if (count > 1) OCTAVO_RETURN_IF_ERROR(WriteText(kIndexFileName, BuildIndex(index_)));
    const Checkpoint& checkpoint = source_.checkpoint;
    OCTAVO_RETURN_IF_ERROR(WriteText("config.json", ConfigText()));
    for (const std::string& name : checkpoint.side_files) {
      if (name != kManifest) OCTAVO_RETURN_IF_ERROR(CopySideFile(name));
    }
    done_.from = TextMember(checkpoint.config["quantization_config"], "quant_method");
    return done_;
  }

 private:
  bool is_plain() const { return source_.recipe.dialect().empty(); }

  std::string ConfigText() const {
    const Checkpoint& checkpoint = source_.checkpoint;
    if (!is_plain()) {
      return QuantizedConfigText(checkpoint.config,
                                 QuantizationConfigJson(source_.recipe, checkpoint.model,
                                                        checkpoint.tensors, source_.schemes));
    }
    nlohmann::ordered_json config = checkpoint.config;
    config.erase("quantization_config");
    return config.dump(2) + '\n';
  }

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
      OCTAVO_RETURN_IF_ERROR(copy.codes   ? WriteValues(copy, path, spec.begin())
                             : copy.scale ? WriteScale(copy, path, spec.begin())
                                          : CopyBytes(*copy.source, path, spec.begin()));
      done_.tensors += 1;
      done_.scales += copy.scale ? 1 : 0;
    }
    done_.bytes += header.file_size;
    return store_.Sync(path);
  }

  // Codes of which two of four lie in the source, in full.
  absl::Status CopyRows(const v1::TensorSpec& from, const std::string& path, uint64_t to) {
    const int64_t step = RowsAtATime(from);
    for (int64_t row = 0; row < from.shape(0); row += step) {
      const int64_t rows = std::min(step, from.shape(0) - row);
      OCTAVO_RETURN_IF_ERROR(
          ReadCodeRows(store_, source_.checkpoint.dir, from, row, rows, &buffer_));
      OCTAVO_RETURN_IF_ERROR(store_.WriteAt(path, to, buffer_));
      to += buffer_.size();
    }
    return absl::OkStatus();
  }

  absl::Status CopyBytes(const v1::TensorSpec& from, const std::string& path, uint64_t to) {
    if (from.has_bitmask()) return CopyRows(from, path, to);
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

  // Whole, and as it lies in buffer_: the scales of a matrix are a row or a 16,384th of it.
  absl::StatusOr<std::vector<float>> ReadScale(const v1::TensorSpec& from) {
    const std::string source = JoinPath(source_.checkpoint.dir, from.file());
    buffer_.resize(from.end() - from.begin());
    OCTAVO_RETURN_IF_ERROR(store_.ReadAt(source, from.begin(), buffer_));
    const DType dtype = FromProto(from.dtype());
    const size_t size = ByteSize(dtype);
    std::vector<float> values(buffer_.size() / size);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = LoadElement(dtype, buffer_.data() + i * size);
      if (std::isfinite(values[i]) && values[i] > 0) continue;
      return MakeError(Reason::kNonFinite, fmt::format("scale {} is {}", i, values[i]),
                       {from.file(), from.name(), from.begin() + i * size},
                       "Quantize the model again");
    }
    return values;
  }

  absl::Status WriteScale(const Copied& copy, const std::string& path, uint64_t to) {
    OCTAVO_ASSIGN_OR_RETURN(const std::vector<float> values, ReadScale(*copy.source));
    if (copy.target.dtype == FromProto(copy.source->dtype())) {
      return store_.WriteAt(path, to, buffer_);
    }
    return store_.WriteAt(path, to, std::as_bytes(std::span(values)));
  }

  // Codes times their scales, whole rows at a time.
  absl::Status WriteValues(const Copied& copy, const std::string& path, uint64_t to) {
    const v1::TensorSpec& from = *copy.source;
    const v1::NumericFormat& format = copy.codes->scheme.weight();
    OCTAVO_ASSIGN_OR_RETURN(const std::vector<float> scales, ReadScale(copy.codes->scale));
    const int64_t columns = from.shape(1);
    const int64_t step = RowsAtATime(from);
    const auto size = static_cast<size_t>(ByteSize(copy.target.dtype));
    std::vector<std::byte> values;
    for (int64_t row = 0; row < from.shape(0); row += step) {
      const int64_t rows = std::min(step, from.shape(0) - row);
      OCTAVO_RETURN_IF_ERROR(
          ReadCodeRows(store_, source_.checkpoint.dir, from, row, rows, &buffer_));
      values.resize(buffer_.size() * size);
      for (size_t i = 0; i < buffer_.size(); ++i) {
        const auto index = static_cast<int64_t>(i);
        const size_t scale =
            ScaleIndex(from, format, scales.size(), row + index / columns, index % columns);
        const float value = CodeValue(format.type(), buffer_[i]) * scales[scale];
        std::byte* at_value = values.data() + i * size;
        StoreElement(copy.target.dtype, value, at_value);
        if (std::isfinite(LoadElement(copy.target.dtype, at_value))) continue;
        ErrorSite place = {.file = from.file(), .tensor = from.name()};
        if (!from.has_bitmask()) {  // else its byte is known to the packed rows alone
          place.offset = from.begin() + static_cast<uint64_t>(row * columns + index);
        }
        return MakeError(
            Reason::kNonFinite,
            fmt::format("row {}, column {}: {} is no number of {}", row + index / columns,
                        index % columns, value, Name(copy.target.dtype)),
            place);
      }
      OCTAVO_RETURN_IF_ERROR(store_.WriteAt(path, to, values));
      to += values.size();
    }
    return absl::OkStatus();
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

// `dialect` empty: nothing is quantized.
absl::StatusOr<Conversion> Convert(Store& store, const std::string& dir, std::string_view dialect,
                                   const std::string& out_dir) {
  OCTAVO_ASSIGN_OR_RETURN(const Source source, ReadSource(store, dir, dialect));
  OCTAVO_ASSIGN_OR_RETURN(StagedFolder staged, StagedFolder::Create(&store, out_dir));
  OCTAVO_ASSIGN_OR_RETURN(const Conversion done, Converter(store, source, staged.path()).Run());
  OCTAVO_RETURN_IF_ERROR(staged.Publish());
  return done;
}

}  // namespace

absl::StatusOr<Conversion> ConvertDialect(Store& store, const std::string& dir,
                                          std::string_view dialect, const std::string& out_dir) {
  return Convert(store, dir, dialect, out_dir);
}

absl::StatusOr<Conversion> Dequantize(Store& store, const std::string& dir,
                                      const std::string& out_dir) {
  return Convert(store, dir, "", out_dir);
}

}  // namespace octavo
