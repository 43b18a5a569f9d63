#include "core/checkpoint/gguf_to_hf.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/gguf.h"
#include "core/checkpoint/gguf_config.h"
#include "core/checkpoint/gguf_tokenizer.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/index.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/staging.h"
#include "core/store/local_store.h"
#include "core/tensor/bare/float_bits.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr int64_t kChunkElements = 4 << 20;

// Row r of a head's output is row `r` of its input seen as [half][i] stored as [i][half].
int64_t SourceRow(int64_t row, int64_t head_rows) {
  const int64_t half = head_rows / 2;
  return row < half ? 2 * row : 2 * (row - half) + 1;
}

// Reads, dequantizes, orders rows, rounds to BF16.
class TensorImport {
 public:
  TensorImport(const Store& store, const std::string& path) : store_(store), path_(path) {}

  // Hands every run of BF16 values, in order, to `write(bytes)`.
  template <typename Write>
  absl::Status Run(const GgufSource& tensor, const Write& write) {
    const std::vector<int64_t>& shape = tensor.target.shape;
    const int64_t columns = shape.size() > 1 ? shape.back() : 1;
    int64_t rows = 1;
    for (int64_t dim : shape) rows *= dim;
    rows /= columns;
    // Chunks hold whole heads where rows move, and whole blocks always: a 1-D tensor is one chunk.
    const int64_t step =
        shape.size() == 1 ? rows : std::max<int64_t>(tensor.interleaved_head_rows, 1);
    const int64_t run = std::max(step, kChunkElements / columns / step * step);
    for (int64_t row = 0; row < rows; row += run) {
      const int64_t count = std::min(run, rows - row);
      OCTAVO_RETURN_IF_ERROR(Load(tensor, row * columns, count * columns));
      OCTAVO_RETURN_IF_ERROR(Convert(tensor, row * columns, count, columns));
      OCTAVO_RETURN_IF_ERROR(write(std::as_bytes(std::span(bf16_))));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Load(const GgufSource& tensor, int64_t first, int64_t elements) {
    const uint32_t type = tensor.source->type;
    const std::optional<uint64_t> skip = GgmlBytes(type, static_cast<uint64_t>(first));
    const std::optional<uint64_t> bytes = GgmlBytes(type, static_cast<uint64_t>(elements));
    OCTAVO_CHECK(skip.has_value() && bytes.has_value());
    blocks_.resize(*bytes);
    values_.resize(static_cast<size_t>(elements));
    OCTAVO_RETURN_IF_ERROR(store_.ReadAt(path_, tensor.source->begin + *skip, blocks_));
    DequantizeRows(type, blocks_, values_);
    return absl::OkStatus();
  }

  absl::Status Convert(const GgufSource& tensor, int64_t first, int64_t rows, int64_t columns) {
    bf16_.resize(values_.size());
    const int64_t head = tensor.interleaved_head_rows;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t from = head == 0 ? row : row / head * head + SourceRow(row % head, head);
      const float* source = values_.data() + from * columns;
      uint16_t* target = bf16_.data() + row * columns;
      bool finite = true;
      for (int64_t i = 0; i < columns; ++i) {
        target[i] = Bf16FromF32(source[i]);
        finite &= (target[i] & 0x7f80) != 0x7f80;
      }
      if (!finite) {
        return MakeError(
            Reason::kNonFinite,
            fmt::format("NaN or infinity in the row of element {}", first + from * columns),
            {path_, tensor.source->name, tensor.source->begin}, "Get a sound file of the model");
      }
    }
    return absl::OkStatus();
  }

  const Store& store_;
  const std::string& path_;
  std::vector<std::byte> blocks_;
  std::vector<float> values_;
  std::vector<uint16_t> bf16_;
};

// Llama 3.1 files carry the factors of each frequency as a tensor.
absl::Status ResolveRopeFactors(const Store& store, const std::string& path, const GgufFile& file,
                                v1::ModelSpec& spec) {
  for (const GgufTensor& tensor : file.tensors) {
    if (tensor.name != kRopeFactorsTensor) continue;
    if (tensor.type != 0 || tensor.shape != std::vector<int64_t>{spec.head_dim() / 2}) {
      return MakeError(Reason::kUnsupported, "unexpected type or shape",
                       {path, tensor.name, tensor.begin}, "Get the model's safetensors files");
    }
    std::vector<float> factors(static_cast<size_t>(spec.head_dim() / 2));
    OCTAVO_RETURN_IF_ERROR(
        store.ReadAt(path, tensor.begin, std::as_writable_bytes(std::span(factors))));
    OCTAVO_ASSIGN_OR_RETURN(*spec.mutable_rope_scaling(), RopeScalingFromFactors(factors, spec));
  }
  return absl::OkStatus();
}

absl::Status WriteWeights(Store& store, const std::string& file, const std::string& dir,
                          std::span<const GgufSource> sources, ImportSummary& summary) {
  std::vector<NewTensor> tensors;
  std::map<std::string_view, const GgufSource*> by_name;
  for (const GgufSource& source : sources) {
    tensors.push_back({source.target.name, DType::kBF16, source.target.shape});
    by_name[source.target.name] = &source;
    summary.bytes_read += source.source->end - source.source->begin;
  }
  const BuiltHeader header = BuildHeader(tensors, kSingleFileName);
  const std::string path = JoinPath(dir, kSingleFileName);
  OCTAVO_RETURN_IF_ERROR(store.CreateFile(path, header.file_size, /*keep_existing=*/false));
  DigestStream digest;
  uint64_t at = 0;
  auto write = [&](std::span<const std::byte> bytes) {
    digest.Add(bytes);
    const absl::Status status = store.WriteAt(path, at, bytes);
    at += bytes.size();
    return status;
  };
  OCTAVO_RETURN_IF_ERROR(write(std::as_bytes(std::span(header.bytes))));
  TensorImport import(store, file);
  for (const v1::TensorSpec& tensor : header.tensors) {
    OCTAVO_CHECK(tensor.begin() == at);
    OCTAVO_RETURN_IF_ERROR(import.Run(*by_name.at(tensor.name()), write));
  }
  summary.tensors = tensors.size();
  summary.bytes_written = at;
  summary.digest = digest.Finish().Hex();
  return store.Sync(path);
}

absl::Status WriteText(Store& store, const std::string& dir, std::string_view name,
                       std::string_view text) {
  const std::string path = JoinPath(dir, name);
  OCTAVO_RETURN_IF_ERROR(WriteWhole(store, path, text));
  return store.Sync(path);
}

}  // namespace

absl::StatusOr<ImportSummary> ImportGguf(Store& store, const std::string& file,
                                         const std::string& out_dir) {
  OCTAVO_ASSIGN_OR_RETURN(const GgufFile gguf, ReadGguf(store, file));
  absl::StatusOr<v1::ModelSpec> spec = GgufModelSpec(gguf);
  if (!spec.ok()) return WithContext(spec.status(), file);
  OCTAVO_RETURN_IF_ERROR(ResolveRopeFactors(store, file, gguf, *spec));
  const absl::StatusOr<TokenizerFiles> tokenizer = GgufTokenizer(gguf);
  if (!tokenizer.ok()) return WithContext(tokenizer.status(), file);
  const absl::StatusOr<std::vector<GgufSource>> sources = MatchGgufTensors(gguf, *spec);
  if (!sources.ok()) return WithContext(sources.status(), file);

  ImportSummary summary;
  summary.architecture = spec->architecture();
  OCTAVO_ASSIGN_OR_RETURN(StagedFolder staged, StagedFolder::Create(&store, out_dir));
  OCTAVO_RETURN_IF_ERROR(WriteWeights(store, file, staged.path(), *sources, summary));
  const std::pair<std::string_view, std::string> texts[] = {
      {"config.json", ConfigText(*spec)},
      {"generation_config.json", GenerationConfigText(*spec)},
      {"tokenizer.json", tokenizer->tokenizer_json},
      {"tokenizer_config.json", tokenizer->tokenizer_config_json},
      {"special_tokens_map.json", tokenizer->special_tokens_map_json},
  };
  for (const auto& [name, text] : texts) {
    OCTAVO_RETURN_IF_ERROR(WriteText(store, staged.path(), name, text));
  }
  OCTAVO_RETURN_IF_ERROR(staged.Publish());
  return summary;
}

absl::StatusOr<ImportSummary> ImportGguf(const std::string& file, const std::string& out_dir) {
  LocalStore store;
  return ImportGguf(store, file, out_dir);
}

}  // namespace octavo
