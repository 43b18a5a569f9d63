#include "core/checkpoint/synth.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/index.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/staging.h"
#include "core/checkpoint/synth_tokenizer.h"
#include "core/model/family.h"
#include "core/store/local_store.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr uint64_t kChunkElements = 2u << 20;
constexpr int kThreadsMax = 64;

// A bijection of 64 bits that scatters consecutive counters (the finalizer of SplitMix64).
uint64_t Scatter(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// The sum of four uniform 16-bit numbers, centred, is near enough to normal (|x| < 3.47 standard
// deviations) and costs two multiplications.
constexpr float kDeviationOfSum = 37837.227f;

struct Distribution {
  float mean = 0.0f;
  float deviation = 1.0f;
};

Distribution DistributionOf(const ExpectedTensor& tensor, const v1::ModelSpec& model) {
  const auto matrix = [](int64_t inputs) {
    return Distribution{0.0f, 1.0f / std::sqrt(static_cast<float>(inputs))};
  };
  switch (tensor.role) {
    case v1::STACKED_DOWN:
      return matrix(model.intermediate_size());
    case v1::EMBEDDING:
      return {0.0f, 1.0f};
    case v1::FINAL_NORM:
    case v1::ATTENTION_NORM:
    case v1::MLP_NORM:
    case v1::Q_NORM:
    case v1::K_NORM:
      return {1.0f, 0.1f};
    default:
      if (tensor.shape.size() < 2) return {0.0f, 0.02f};
      return matrix(tensor.shape.back());
  }
}

struct ToBf16 {
  using Type = uint16_t;
  static Type From(float value) { return Bf16FromF32(value); }
};
struct ToF16 {
  using Type = uint16_t;
  static Type From(float value) { return F16FromF32(value); }
};
struct ToF32 {
  using Type = float;
  static Type From(float value) { return value; }
};

template <typename To>
void Fill(uint64_t key, uint64_t first, const Distribution& want, std::span<std::byte> out) {
  const float scale = want.deviation / kDeviationOfSum;
  const size_t count = out.size() / sizeof(typename To::Type);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t bits = Scatter(key + (first + i) * 0x9e3779b97f4a7c15u);
    const int32_t sum = static_cast<int32_t>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                             (bits >> 32 & 0xffff) + (bits >> 48)) -
                        2 * 0xffff;
    const typename To::Type value = To::From(want.mean + static_cast<float>(sum) * scale);
    std::memcpy(out.data() + i * sizeof value, &value, sizeof value);
  }
}

void FillAs(DType dtype, uint64_t key, uint64_t first, const Distribution& want,
            std::span<std::byte> out) {
  if (dtype == DType::kBF16) return Fill<ToBf16>(key, first, want, out);
  if (dtype == DType::kF16) return Fill<ToF16>(key, first, want, out);
  Fill<ToF32>(key, first, want, out);
}

// A run of elements of one tensor and where it goes.
struct Chunk {
  const std::string* path;
  uint64_t key;
  uint64_t first;
  uint64_t elements;
  uint64_t offset;
  Distribution distribution;
};

struct Shard {
  std::string name;
  std::string path;
  std::vector<const ExpectedTensor*> tensors;
  BuiltHeader header;
};

// In model order, a file is closed when the next tensor would pass the limit: as the hub's writers
// do.
std::vector<Shard> PlanShards(std::span<const ExpectedTensor> tensors, const SynthSpec& spec,
                              const std::string& dir) {
  std::vector<Shard> shards(1);
  uint64_t bytes = 0;
  for (const ExpectedTensor& tensor : tensors) {
    const uint64_t size = *TensorBytes(spec.dtype, tensor.shape);
    if (!shards.back().tensors.empty() && bytes + size > spec.shard_bytes_max) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().tensors.push_back(&tensor);
    bytes += size;
  }
  const int count = static_cast<int>(shards.size());
  for (int i = 0; i < count; ++i) {
    Shard& shard = shards[static_cast<size_t>(i)];
    shard.name = ShardName(i + 1, count);
    shard.path = JoinPath(dir, shard.name);
    std::vector<NewTensor> fresh;
    for (const ExpectedTensor* tensor : shard.tensors) {
      fresh.push_back({tensor->name, spec.dtype, tensor->shape});
    }
    shard.header = BuildHeader(fresh, shard.name);
  }
  return shards;
}

std::vector<Chunk> PlanChunks(std::span<const Shard> shards, const SynthSpec& spec,
                              const v1::ModelSpec& model, uint64_t seed) {
  std::vector<Chunk> chunks;
  const uint64_t size = static_cast<uint64_t>(ByteSize(spec.dtype));
  for (const Shard& shard : shards) {
    std::map<std::string_view, const ExpectedTensor*> by_name;
    for (const ExpectedTensor* tensor : shard.tensors) by_name[tensor->name] = tensor;
    for (const v1::TensorSpec& tensor : shard.header.tensors) {
      const uint64_t key = Scatter(DigestOf(tensor.name()).low ^ Scatter(seed + 1));
      const uint64_t elements = (tensor.end() - tensor.begin()) / size;
      for (uint64_t first = 0; first < elements; first += kChunkElements) {
        chunks.push_back({&shard.path, key, first, std::min(kChunkElements, elements - first),
                          tensor.begin() + first * size,
                          DistributionOf(*by_name.at(tensor.name()), model)});
      }
    }
  }
  return chunks;
}

absl::Status WriteChunks(Store& store, std::span<const Chunk> chunks, DType dtype, int threads) {
  std::atomic<size_t> next = 0;
  Mutex mutex;
  absl::Status failure;
  auto work = [&] {
    std::vector<std::byte> bytes;
    for (size_t i; (i = next.fetch_add(1)) < chunks.size();) {
      const Chunk& chunk = chunks[i];
      bytes.resize(chunk.elements * static_cast<uint64_t>(ByteSize(dtype)));
      FillAs(dtype, chunk.key, chunk.first, chunk.distribution, bytes);
      if (absl::Status status = store.WriteAt(*chunk.path, chunk.offset, bytes); !status.ok()) {
        MutexLock lock(mutex);
        failure.Update(status);
        next = chunks.size();
      }
    }
  };
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int count = std::clamp(threads > 0 ? threads : cores, 1, kThreadsMax);
  std::vector<std::jthread> others;
  for (int i = 1; i < count; ++i) others.emplace_back(work);
  work();
  others.clear();
  return failure;
}

// What was asked for must be something that the family's config.json can say.
absl::Status CheckSayable(const Family& family, const v1::ModelSpec& model) {
  const auto refuse = [&](std::string_view what) {
    return MakeError(Reason::kUsage, fmt::format("a {} has no {}", family.name, what));
  };
  const ConfigKeys& keys = family.keys;
  if (keys.expert_count.empty() && (model.expert_count() > 0 || model.experts_per_token() > 0)) {
    return refuse("experts");
  }
  if (keys.clip_qkv.empty() && model.clip_qkv() != 0) return refuse("clipping of q, k and v");
  if (keys.attention_bias.empty() && model.attention_bias() && !family.attention_bias_default) {
    return refuse("biases");
  }
  if (keys.head_dim.empty() && model.head_dim() * model.head_count() != model.hidden_size()) {
    return refuse("head dimension of its own");
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::ModelSpec> Complete(const SynthSpec& spec) {
  v1::ModelSpec model = spec.model;
  if (model.family().empty()) model.set_family("llama");
  const Family* family = FamilyByName(model.family());
  if (family == nullptr) {
    return MakeError(Reason::kUnsupported,
                     fmt::format("model family \"{}\" is not supported yet", model.family()), {},
                     fmt::format("Supported: {}", FamilyNames()));
  }
  if (!IsSourceFloat(spec.dtype)) {
    return MakeError(Reason::kUsage, "weights can be F32, F16 or BF16");
  }
  model.set_dtype(ToProto(spec.dtype));
  model.set_act("silu");
  if (model.kv_head_count() == 0) model.set_kv_head_count(model.head_count());
  if (model.head_dim() == 0 && model.head_count() > 0) {
    if (model.hidden_size() % model.head_count() != 0) {
      return MakeError(Reason::kUsage, "hidden_size is no multiple of head_count", {},
                       "Give head_dim");
    }
    model.set_head_dim(model.hidden_size() / model.head_count());
  }
  OCTAVO_RETURN_IF_ERROR(CheckSayable(*family, model));
  SetFamilyFacts(*family, model);
  if (!family->keys.expert_count.empty()) {
    if (model.expert_count() == 0) model.set_expert_count(family->expert_count_default);
    if (model.experts_per_token() == 0) {
      model.set_experts_per_token(
          std::min(family->experts_per_token_default, model.expert_count()));
    }
    if (!family->keys.expert_weight_norm.empty()) {
      model.set_normalized_experts(family->normalized_experts);
    }
  }
  // A family that does not write its epsilon has one for all models.
  if (model.norm_eps() == 0 || family->keys.norm_eps.empty()) model.set_norm_eps(1e-5);
  if (model.rope_theta() == 0) model.set_rope_theta(10000.0);
  if (model.max_position() == 0) model.set_max_position(2048);
  if (const absl::Status status = CheckSpec(model, ""); !status.ok()) {
    return MakeError(Reason::kUsage, std::string(status.message()));
  }
  return model;
}

}  // namespace

absl::Status WriteSynthetic(Store& store, const SynthSpec& spec, uint64_t seed,
                            const std::string& out_dir) {
  OCTAVO_ASSIGN_OR_RETURN(v1::ModelSpec model, Complete(spec));
  const std::optional<SynthTokenizer> tokenizer = MakeSynthTokenizer(model.vocab_size());
  model.clear_eos_token_ids();
  model.set_bos_token_id(-1);
  if (tokenizer) {
    model.set_bos_token_id(tokenizer->bos_id);
    model.add_eos_token_ids(tokenizer->eos_id);
  }
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<ExpectedTensor> tensors, ExpectedTensors(model));
  OCTAVO_ASSIGN_OR_RETURN(StagedFolder staged, StagedFolder::Create(&store, out_dir));
  const std::vector<Shard> shards = PlanShards(tensors, spec, staged.path());
  TensorIndex index;
  for (const Shard& shard : shards) {
    OCTAVO_RETURN_IF_ERROR(store.CreateFile(shard.path, shard.header.file_size, false));
    OCTAVO_RETURN_IF_ERROR(
        store.WriteAt(shard.path, 0, std::as_bytes(std::span(shard.header.bytes))));
    for (const v1::TensorSpec& tensor : shard.header.tensors) {
      index.weight_map[tensor.name()] = shard.name;
      index.total_size += tensor.end() - tensor.begin();
    }
  }
  OCTAVO_RETURN_IF_ERROR(
      WriteChunks(store, PlanChunks(shards, spec, model, seed), spec.dtype, spec.threads));
  std::vector<std::pair<std::string, std::string>> texts = {
      {"config.json", ConfigText(model)}, {"generation_config.json", GenerationConfigText(model)}};
  if (shards.size() > 1) texts.emplace_back(kIndexFileName, BuildIndex(index));
  if (tokenizer) {
    texts.emplace_back("tokenizer.json", tokenizer->tokenizer_json);
    texts.emplace_back("tokenizer_config.json", tokenizer->tokenizer_config_json);
  }
  for (const auto& [name, text] : texts) {
    OCTAVO_RETURN_IF_ERROR(WriteWhole(store, JoinPath(staged.path(), name), text));
  }
  return staged.Publish();
}

absl::Status WriteSynthetic(const SynthSpec& spec, uint64_t seed, const std::string& out_dir) {
  LocalStore store;
  return WriteSynthetic(store, spec, seed, out_dir);
}

}  // namespace octavo
