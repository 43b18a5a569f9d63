#include "tests/worker/runner/tiny_model.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <thread>

#include "core/base/ids.h"
#include "core/checkpoint/safetensors.h"
#include "core/model/family.h"
#include "core/scheme/recipe.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/units.h"
#include "gtest/gtest.h"
#include "worker/comm/local_group.h"
#include "worker/runner/runner.h"

namespace octavo::testing {
namespace {

v1::ModelSpec BaseSpec() {
  v1::ModelSpec spec;
  spec.set_family("llama");
  spec.set_layer_count(2);
  spec.set_head_count(6);
  spec.set_kv_head_count(3);
  spec.set_max_position(256);
  spec.set_norm_eps(1e-5);
  spec.set_rope_theta(10000);
  spec.set_act("silu");
  spec.set_vocab_size(131);
  return spec;
}

bool IsPerTensor(Format format) {
  return format == Format::kFp8Tensor || format == Format::kFp8Static;
}

v1::Scheme SchemeOf(Format format) {
  v1::Scheme scheme;
  v1::NumericFormat* weight = scheme.mutable_weight();
  weight->set_type(format == Format::kInt8 ? v1::NUMERIC_INT8 : v1::NUMERIC_FP8_E4M3);
  weight->set_granularity(format == Format::kFp8Block ? v1::PER_BLOCK
                          : IsPerTensor(format)       ? v1::PER_TENSOR
                                                      : v1::PER_CHANNEL);
  if (format == Format::kFp8WeightOnly) return scheme;
  v1::NumericFormat* input = scheme.mutable_input();
  input->set_type(weight->type());
  input->set_dynamic(!IsStatic(format));
  input->set_granularity(IsStatic(format) ? v1::PER_TENSOR : v1::PER_TOKEN);
  if (format == Format::kFp8Block) {
    weight->set_block_rows(128);
    weight->set_block_columns(128);
    input->set_granularity(v1::PER_GROUP);
    input->set_block_columns(128);
  }
  return scheme;
}

std::vector<int64_t> ScaleShape(Format format, const std::vector<int64_t>& shape) {
  if (IsPerTensor(format)) return {1};
  if (format != Format::kFp8Block) return {shape[0], 1};
  return {CeilDiv(shape[0], 128), CeilDiv(shape[1], 128)};
}

// Random content: weights N(0, 1/columns), codes over the whole range with scales to match.
std::string Content(const ExpectedTensor& planned, DType dtype, bool scale,
                    std::mt19937_64* random) {
  int64_t count = 1;
  for (const int64_t dimension : planned.shape) count *= dimension;
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
  std::string bytes;
  const float spread = planned.shape.size() > 1 && planned.role != v1::EMBEDDING
                           ? 1.0f / std::sqrt(static_cast<float>(planned.shape[1]))
                           : 1.0f;
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == DType::kF8E4M3) {
      bytes.push_back(static_cast<char>(Fp8FromF32(normal(*random) * 100.0f)));
    } else if (dtype == DType::kI8) {
      bytes.push_back(static_cast<char>(
          std::lround(std::min(127.0f, std::max(-127.0f, normal(*random) * 30.0f)))));
    } else {
      float value = normal(*random) * spread;
      if (planned.shape.size() == 1) value = 1.0f + 0.1f * value;
      if (scale) value = uniform(*random) * 0.001f;
      const uint16_t bits = Bf16FromF32(value);
      bytes.append(reinterpret_cast<const char*>(&bits), 2);
    }
  }
  return bytes;
}

// A scalar tensor: where it is in the file, and its value.
struct Scalar {
  NewTensor tensor;
  float value = 0;
};

// Scales that hold most values and clip some.
Scalar StaticScale(const std::string& name, Format format, std::mt19937_64* random) {
  if (format == Format::kFp8StaticTied) return {{name, DType::kF32, {}}, 0.0078f};
  const float value = std::uniform_real_distribution<float>(0.002f, 0.012f)(*random);
  return {{name, DType::kBF16, {1}}, value};
}

std::string BytesOf(const Scalar& scalar) {
  const uint16_t bits = Bf16FromF32(scalar.value);
  return scalar.tensor.dtype == DType::kF32
             ? std::string(reinterpret_cast<const char*>(&scalar.value), 4)
             : std::string(reinterpret_cast<const char*>(&bits), 2);
}

void RunRank(const TinyModel& model, const v1::ServePlan& plan, uint32_t rank,
             Communicator* communicator, const std::vector<int32_t>& tokens,
             const RunSettings& settings, std::vector<Digest128>* digests) {
  auto runner =
      ModelRunner::Load(model.dir, plan, rank, communicator, {settings.threads, settings.isa, 0});
  ASSERT_TRUE(runner.ok()) << runner.status().message();
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t size = settings.chunk == 0 ? count : settings.chunk;
  for (int64_t start = 0; start < count; start += size) {
    v1::Step step;
    v1::StepChunk* chunk = step.add_chunks();
    chunk->set_start(static_cast<uint32_t>(start));
    chunk->set_logits_all(true);
    chunk->set_residuals(true);
    const int64_t end = std::min(start + size, count);
    for (int64_t i = start; i < end; ++i) chunk->add_tokens(tokens[static_cast<size_t>(i)]);
    const auto blocks = static_cast<uint32_t>((end + 31) / 32);
    for (uint32_t i = 0; i < blocks; ++i) {
      chunk->add_blocks(settings.shuffle_blocks ? plan.kv_block_count() - 1 - i : i);
    }
    Logits logits;
    const absl::Status status = (*runner)->Run(step, rank == 0 ? &logits : nullptr);
    ASSERT_TRUE(status.ok()) << status.message();
    if (rank != 0) continue;
    ASSERT_EQ(logits.rows, end - start);
    ASSERT_EQ(static_cast<int64_t>(logits.expert_tokens.size()), model.spec.expert_count());
    const auto visits = std::reduce(logits.expert_tokens.begin(), logits.expert_tokens.end());
    ASSERT_EQ(static_cast<int64_t>(visits), model.spec.layer_count() * logits.rows *
                                                model.spec.experts_per_token() *
                                                (model.spec.expert_count() > 0 ? 1 : 0));
    for (int64_t row = 0; row < logits.rows; ++row) {
      const std::span<const float> values(logits.values.data() + row * logits.vocab,
                                          static_cast<size_t>(logits.vocab));
      for (const float value : values) ASSERT_TRUE(std::isfinite(value));
      const size_t width = logits.residuals.size() / static_cast<size_t>(logits.rows);
      ASSERT_EQ(static_cast<int64_t>(width), model.spec.layer_count() * model.spec.hidden_size());
      DigestStream digest;
      digest.Add(std::as_bytes(values));
      digest.Add(std::as_bytes(std::span<const uint16_t>(
          logits.residuals.data() + static_cast<size_t>(row) * width, width)));
      digests->push_back(digest.Finish());
    }
  }
}

}  // namespace

v1::ModelSpec RaggedSpec() {
  v1::ModelSpec spec = BaseSpec();
  spec.set_hidden_size(80);
  spec.set_intermediate_size(150);
  spec.set_head_dim(20);
  return spec;
}

v1::ModelSpec MixtureSpec() {
  v1::ModelSpec spec = RaggedSpec();
  spec.set_expert_count(5);
  spec.set_experts_per_token(2);
  SetFamilyFacts(*FamilyByName("mixtral"), spec);
  return spec;
}

v1::ModelSpec DbrxSpec() {
  v1::ModelSpec spec = MixtureSpec();
  spec.set_clip_qkv(0.7);
  SetFamilyFacts(*FamilyByName("dbrx"), spec);
  return spec;
}

v1::ModelSpec BlockSpec() {
  v1::ModelSpec spec = BaseSpec();
  spec.set_hidden_size(160);
  spec.set_intermediate_size(320);
  spec.set_head_dim(64);
  return spec;
}

bool IsStatic(Format format) {
  return format == Format::kFp8Static || format == Format::kFp8StaticTied;
}

TinyModel WriteTinyModel(const v1::ModelSpec& spec, Format format, uint64_t seed, bool fp8_cache,
                         bool head) {
  TinyModel model;
  model.spec = spec;
  model.dir = ::testing::TempDir() + "octavo-tiny-" + RandomHex(8);
  std::filesystem::create_directories(model.dir);
  model.folder = std::shared_ptr<void>(
      nullptr, [dir = model.dir](void*) { std::filesystem::remove_all(dir); });
  auto planned = ExpectedTensors(spec);
  EXPECT_TRUE(planned.ok()) << planned.status().message();
  if (!planned.ok()) return model;
  std::mt19937_64 random(seed);
  std::vector<Scalar> scalars;
  std::vector<NewTensor> tensors;
  for (const ExpectedTensor& tensor : *planned) {
    const bool quantized =
        (head && tensor.role == v1::LM_HEAD) ||
        (IsQuantizable(tensor.role) && !IsStack(tensor.role) && format != Format::kBf16);
    const DType dtype = !quantized                ? DType::kBF16
                        : format == Format::kInt8 ? DType::kI8
                                                  : DType::kF8E4M3;
    tensors.push_back({tensor.name, dtype, tensor.shape});
    if (quantized) {
      tensors.push_back({tensor.name + ".scale", DType::kBF16, ScaleShape(format, tensor.shape)});
      if (!IsStatic(format)) continue;
      scalars.push_back(StaticScale(tensor.name + ".input_scale", format, &random));
    }
  }
  for (int64_t layer = 0; fp8_cache && layer < spec.layer_count(); ++layer) {
    const std::string name = "layer" + std::to_string(layer);
    scalars.push_back({{name + ".k_scale", DType::kF32, {1}}, 0.0049f + 0.001f * layer});
    scalars.push_back({{name + ".v_scale", DType::kBF16, {}}, 0.003f});
  }
  for (const Scalar& scalar : scalars) tensors.push_back(scalar.tensor);
  const BuiltHeader header = BuildHeader(tensors, "model.safetensors");
  std::map<std::string, v1::TensorSpec> specs;
  for (const v1::TensorSpec& tensor : header.tensors) specs[tensor.name()] = tensor;
  std::string file = header.bytes;
  file.resize(header.file_size);
  const auto put = [&](const v1::TensorSpec& tensor, const std::string& bytes) {
    ASSERT_EQ(bytes.size(), tensor.end() - tensor.begin());
    std::memcpy(file.data() + tensor.begin(), bytes.data(), bytes.size());
  };
  for (const ExpectedTensor& tensor : *planned) {
    ServedTensor served;
    *served.tensor.mutable_spec() = specs.at(tensor.name);
    served.tensor.set_role(tensor.role);
    served.tensor.set_layer(tensor.layer);
    served.tensor.set_expert(tensor.expert);
    put(specs.at(tensor.name),
        Content(tensor, static_cast<DType>(specs.at(tensor.name).dtype()), false, &random));
    if (const auto scale = specs.find(tensor.name + ".scale"); scale != specs.end()) {
      served.scheme = SchemeOf(format);
      served.scale = scale->second;
      if (IsStatic(format)) served.input_scale = specs.at(tensor.name + ".input_scale");
      ExpectedTensor shape = tensor;
      shape.shape = ScaleShape(format, tensor.shape);
      put(scale->second, Content(shape, DType::kBF16, true, &random));
    }
    model.tensors.push_back(served);
  }
  for (const Scalar& scalar : scalars) put(specs.at(scalar.tensor.name), BytesOf(scalar));
  for (int64_t layer = 0; fp8_cache && layer < spec.layer_count(); ++layer) {
    v1::CacheScales& scales = model.cache_scales.emplace_back();
    *scales.mutable_key() = specs.at("layer" + std::to_string(layer) + ".k_scale");
    *scales.mutable_value() = specs.at("layer" + std::to_string(layer) + ".v_scale");
  }
  std::ofstream(model.dir + "/model.safetensors", std::ios::binary) << file;
  return model;
}

std::vector<Digest128> RunModel(const TinyModel& model, const std::vector<int32_t>& tokens,
                                const RunSettings& settings) {
  ServeOptions options;
  options.rank_count = settings.ranks;
  options.cache_type = settings.cache;
  options.head_type = settings.head;
  const auto plan = PlanServing(model.spec, model.tensors, options, model.cache_scales);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  std::vector<Digest128> digests;
  if (!plan.ok()) return digests;
  auto group = MakeLocalGroup(static_cast<int>(settings.ranks));
  std::vector<std::thread> threads;
  for (uint32_t rank = 0; rank < settings.ranks; ++rank) {
    threads.emplace_back(
        [&, rank] { RunRank(model, *plan, rank, group[rank].get(), tokens, settings, &digests); });
  }
  for (std::thread& thread : threads) thread.join();
  return digests;
}

std::vector<int32_t> RandomTokens(int64_t count, int64_t vocab, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

}  // namespace octavo::testing
