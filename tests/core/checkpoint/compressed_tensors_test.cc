#include "core/checkpoint/compressed_tensors.h"

#include <functional>

#include "core/base/error.h"
#include "core/checkpoint/dialect.h"
#include "core/scheme/recipe.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;

v1::ModelTensor Tensor(const std::string& name, v1::TensorRole role, v1::DType dtype,
                       std::vector<int64_t> shape) {
  v1::ModelTensor tensor;
  tensor.mutable_spec()->set_name(name);
  tensor.mutable_spec()->set_file("model.safetensors");
  tensor.mutable_spec()->set_dtype(dtype);
  for (const int64_t size : shape) tensor.mutable_spec()->add_shape(size);
  tensor.set_role(role);
  tensor.set_layer(0);
  return tensor;
}

// A source of one attention block, and what quantizing it with `recipe` gives.
struct Folder {
  ordered_json config = ordered_json::object();
  std::vector<v1::ModelTensor> tensors;

  explicit Folder(const v1::Recipe& recipe) {
    const std::vector<v1::ModelTensor> sources = {
        Tensor("model.embed_tokens.weight", v1::EMBEDDING, v1::BF16, {32, 256}),
        Tensor("model.layers.0.self_attn.q_proj.weight", v1::Q_PROJ, v1::BF16, {256, 256}),
        Tensor("model.layers.0.self_attn.k_proj.weight", v1::K_PROJ, v1::BF16, {128, 256}),
        Tensor("model.layers.0.self_attn.v_proj.weight", v1::V_PROJ, v1::BF16, {128, 256}),
        Tensor("model.layers.0.self_attn.o_proj.weight", v1::O_PROJ, v1::BF16, {256, 256}),
        Tensor("lm_head.weight", v1::LM_HEAD, v1::BF16, {32, 256})};
    const auto schemes = ResolveSchemes(recipe, sources);
    EXPECT_TRUE(schemes.ok()) << schemes.status();
    config["model_type"] = "llama";
    config["quantization_config"] = QuantizationConfigJson(recipe, {}, sources, *schemes);
    for (size_t i = 0; i < sources.size(); ++i) {
      v1::ModelTensor tensor = sources[i];
      if ((*schemes)[i].scheme != nullptr) {
        const v1::NumericFormat& format = (*schemes)[i].scheme->weight();
        const ScaleShape scale = WeightScaleOf(recipe.dialect(), {}, tensor, format);
        tensor.mutable_spec()->set_dtype(format.type() == v1::NUMERIC_INT8 ? v1::I8 : v1::F8_E4M3);
        tensors.push_back(Tensor(scale.name, v1::IGNORED, v1::BF16, scale.shape));
      }
      tensors.push_back(std::move(tensor));
    }
  }

  v1::TensorSpec* Find(const std::string& name) {
    for (auto& tensor : tensors) {
      if (tensor.spec().name() == name) return tensor.mutable_spec();
    }
    return nullptr;
  }
  ordered_json& section() { return config["quantization_config"]; }
  ordered_json& group() { return section()["config_groups"]["group_0"]; }
};

const std::string kQ = "model.layers.0.self_attn.q_proj.weight";

v1::Recipe Custom(const std::string& rules) {
  const auto recipe = ParseRecipe("name: custom\nrules:\n" + rules, "custom.yaml");
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return *recipe;
}

TEST(ReadQuantization, ReadsWhatIsWritten) {
  std::vector<v1::Recipe> recipes;
  for (const std::string_view name : PresetNames()) {
    if (!Preset(name)->has_calibration()) recipes.push_back(*Preset(name));
  }
  recipes.push_back(Custom("  - weight: {type: fp8, scale: tensor}\n"));
  recipes.push_back(
      Custom("  - {roles: [o_proj], weight: {type: fp8, scale: channel}}\n"
             "  - {weight: {type: int8, scale: channel}, input: {type: int8, scale: token}}\n"));
  for (const v1::Recipe& recipe : recipes) {
    const Folder folder(recipe);
    const auto read = ReadQuantization(folder.config, folder.tensors);
    ASSERT_TRUE(read.ok()) << read.status();
    int quantized = 0;
    for (size_t i = 0; i < folder.tensors.size(); ++i) {
      const v1::ModelTensor& tensor = folder.tensors[i];
      EXPECT_EQ(read->tensors[i].is_scale, tensor.spec().name().ends_with("_scale"));
      EXPECT_EQ(read->tensors[i].quantized, IsQuantizable(tensor.role()));
      if (!read->tensors[i].quantized) continue;
      ++quantized;
      const std::vector<v1::ModelTensor> alone = {tensor};
      EXPECT_EQ(read->tensors[i].scheme.SerializeAsString(),
                (*ResolveSchemes(recipe, alone))[0].scheme->SerializeAsString());
      EXPECT_EQ(read->tensors[i].scale.name(), tensor.spec().name() + "_scale");
    }
    EXPECT_EQ(quantized, 4);
  }
}

TEST(ReadQuantization, AcceptsOtherWritersShapesAndKeys) {
  Folder folder(*Preset("fp8-dynamic"));
  v1::TensorSpec* scale = folder.Find(kQ + "_scale");
  scale->set_dtype(v1::F32);
  scale->clear_shape();
  scale->add_shape(256);
  folder.section().erase("quantization_status");
  folder.section()["sparsity_config"] = ordered_json::object();
  folder.section()["transform_config"] = ordered_json::object();
  folder.group()["weights"]["scale_dtype"] = nullptr;
  folder.group()["weights"].erase("actorder");
  EXPECT_TRUE(ReadQuantization(folder.config, folder.tensors).ok());
}

// Turns a folder of FP8 weights into one with static inputs.
void MakeStatic(Folder* folder) {
  folder->group()["input_activations"] = {
      {"num_bits", 8}, {"type", "float"}, {"strategy", "tensor"}, {"dynamic", false}};
  std::vector<v1::ModelTensor> scales;
  for (const v1::ModelTensor& tensor : folder->tensors) {
    if (!IsQuantizable(tensor.role())) continue;
    scales.push_back(Tensor(std::string(ModuleName(tensor.spec().name())) + ".input_scale",
                            v1::IGNORED, v1::BF16, {1}));
  }
  folder->tensors.insert(folder->tensors.end(), scales.begin(), scales.end());
}

const std::string kAttention = "model.layers.0.self_attn";

void AddCache(const std::string& key, const std::string& value, Folder* folder) {
  folder->section()["kv_cache_scheme"] = {{"num_bits", 8},
                                          {"type", "float"},
                                          {"strategy", "tensor"},
                                          {"symmetric", true},
                                          {"dynamic", false}};
  folder->tensors.push_back(Tensor(key, v1::IGNORED, v1::F32, {1}));
  if (value != key) folder->tensors.push_back(Tensor(value, v1::IGNORED, v1::F32, {}));
}

TEST(ReadQuantization, ReadsStaticInputs) {
  for (const char* strategy : {"tensor", "channel"}) {
    Folder folder(Custom("  - {weight: {type: fp8, scale: " + std::string(strategy) +
                         "}, input: {type: fp8, scale: token}}\n"));
    MakeStatic(&folder);
    folder.Find(kAttention + ".o_proj.input_scale")->clear_shape();
    const auto read = ReadQuantization(folder.config, folder.tensors);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(read->cache_scales.empty());
    int quantized = 0;
    for (size_t i = 0; i < folder.tensors.size(); ++i) {
      const TensorQuantization& one = read->tensors[i];
      EXPECT_EQ(one.input_scale.has_value(), one.quantized);
      if (!one.quantized) continue;
      ++quantized;
      EXPECT_EQ(one.input_scale->name(),
                std::string(ModuleName(folder.tensors[i].spec().name())) + ".input_scale");
      EXPECT_EQ(one.scheme.input().granularity(), v1::PER_TENSOR);
      EXPECT_FALSE(one.scheme.input().dynamic());
    }
    EXPECT_EQ(quantized, 4);
  }
}

TEST(ReadQuantization, ReadsTheScalesOfTheCache) {
  const std::pair<std::string, std::string> pairs[] = {
      {kAttention + ".k_scale", kAttention + ".v_scale"},
      {kAttention + ".k_proj.output_scale", kAttention + ".v_proj.output_scale"},
      {kAttention + ".kv_scale", kAttention + ".kv_scale"}};
  for (const auto& [key, value] : pairs) {
    Folder folder(*Preset("fp8-dynamic"));
    AddCache(key, value, &folder);
    const auto read = ReadQuantization(folder.config, folder.tensors);
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(read->cache_scales.size(), 1u);
    EXPECT_EQ(read->cache_scales[0].key().name(), key);
    EXPECT_EQ(read->cache_scales[0].value().name(), value);
  }
}

TEST(ReadQuantization, ReadsTheScalesOfFusedAttention) {
  Folder folder(*Preset("fp8-dynamic"));
  folder.tensors = {
      Tensor("transformer.blocks.0.attn.Wqkv.weight", v1::FUSED_QKV, v1::F8_E4M3, {512, 256}),
      Tensor("transformer.blocks.0.attn.Wqkv.weight_scale", v1::IGNORED, v1::BF16, {512, 1})};
  AddCache("transformer.blocks.0.attn.k_scale", "transformer.blocks.0.attn.v_scale", &folder);
  const auto read = ReadQuantization(folder.config, folder.tensors);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->cache_scales.size(), 1u);
  EXPECT_EQ(read->cache_scales[0].value().name(), "transformer.blocks.0.attn.v_scale");
}

struct Refusal {
  std::string_view what;
  std::function<void(Folder*)> damage;
  Reason reason;
  std::string_view message;
};

void ExpectRefused(const std::vector<Refusal>& refusals) {
  for (const Refusal& refusal : refusals) {
    Folder folder(*Preset("fp8-dynamic"));
    refusal.damage(&folder);
    const auto read = ReadQuantization(folder.config, folder.tensors);
    ASSERT_FALSE(read.ok()) << refusal.what;
    EXPECT_EQ(ReasonOf(read.status()), refusal.reason) << refusal.what << read.status();
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(std::string(refusal.message)))
        << refusal.what;
  }
}

TEST(ReadQuantization, RefusesByName) {
  const std::vector<Refusal> refusals = {
      {"missing scale", [](Folder* f) { f->Find(kQ + "_scale")->set_name("other.weight_scale"); },
       Reason::kBadCheckpoint, "q_proj.weight_scale is missing"},
      {"short scale", [](Folder* f) { f->Find(kQ + "_scale")->set_shape(0, 255); },
       Reason::kBadCheckpoint, "its shape [255, 1] does not fit FP8 channel"},
      {"integer scale", [](Folder* f) { f->Find(kQ + "_scale")->set_dtype(v1::I32); },
       Reason::kBadCheckpoint, "a scale of dtype I32"},
      {"unquantized weight", [](Folder* f) { f->Find(kQ)->set_dtype(v1::BF16); },
       Reason::kBadCheckpoint, "its dtype is BF16 where quantization_config says F8_E4M3"},
      {"other codes", [](Folder* f) { f->Find(kQ)->set_dtype(v1::I8); }, Reason::kBadCheckpoint,
       "its dtype is I8"},
      {"codes without config", [](Folder* f) { f->config.erase("quantization_config"); },
       Reason::kBadCheckpoint, "config.json does not say that it is quantized"},
      {"ignored codes", [](Folder* f) { f->section()["ignore"].push_back(ModuleName(kQ)); },
       Reason::kBadCheckpoint, "config.json does not say that it is quantized"},
      {"orphan scale",
       [](Folder* f) {
         f->tensors.push_back(
             Tensor("model.layers.0.mlp.up_proj.input_scale", v1::IGNORED, v1::BF16, {1}));
       },
       Reason::kBadCheckpoint, "a scale that belongs to no quantized weight"},
      {"other method", [](Folder* f) { f->section()["quant_method"] = "gptq"; },
       Reason::kUnsupported, "quant_method 'gptq'"},
      {"four bits", [](Folder* f) { f->group()["weights"]["num_bits"] = 4; }, Reason::kUnsupported,
       "only num_bits 8"},
      {"asymmetric", [](Folder* f) { f->group()["weights"]["symmetric"] = false; },
       Reason::kUnsupported, "asymmetric"},
      {"packed", [](Folder* f) { f->section()["format"] = "pack-quantized"; }, Reason::kUnsupported,
       "format 'pack-quantized'"},
      {"sparse", [](Folder* f) { f->section()["sparsity_config"]["format"] = "sparse-bitmask"; },
       Reason::kUnsupported, "format 'sparse-bitmask' is not handled"},
      {"pattern", [](Folder* f) { f->group()["targets"] = {"re:.*proj"}; }, Reason::kUnsupported,
       "target 're:.*proj' is a pattern"},
      {"two groups for one",
       [](Folder* f) { f->section()["config_groups"]["group_1"] = f->group(); },
       Reason::kBadCheckpoint, "target 'Linear' appears twice"},
      {"not an object", [](Folder* f) { f->section() = "yes"; }, Reason::kBadCheckpoint,
       "it is not an object"},
      {"groups are a list",
       [](Folder* f) {
         f->section()["config_groups"] = {1, 2};
       },
       Reason::kBadCheckpoint, "no config_groups"},
      {"still calibrating", [](Folder* f) { f->section()["quantization_status"] = "frozen"; },
       Reason::kUnsupported, "not compressed"},
      {"block without its size", [](Folder* f) { f->group()["weights"]["strategy"] = "block"; },
       Reason::kBadCheckpoint, "lacks its block_structure"}};
  ExpectRefused(refusals);
}

TEST(ReadQuantization, RefusesOtherStaticInputsByName) {
  ExpectRefused(
      {{"static per token", [](Folder* f) { f->group()["input_activations"]["dynamic"] = false; },
        Reason::kUnsupported, "static scales are handled for type float, strategy tensor only"},
       {"locally dynamic", [](Folder* f) { f->group()["input_activations"]["dynamic"] = "local"; },
        Reason::kUnsupported, "dynamic is neither true nor false"},
       {"static input of INT8 weights",
        [](Folder* f) {
          MakeStatic(f);
          f->group()["weights"]["type"] = "int";
        },
        Reason::kUnsupported, "under FP8 weights only"},
       {"missing input scale",
        [](Folder* f) {
          MakeStatic(f);
          f->Find(kAttention + ".v_proj.input_scale")->set_name("other.input_scale");
        },
        Reason::kBadCheckpoint, "v_proj.input_scale is missing"},
       {"several input scales",
        [](Folder* f) {
          MakeStatic(f);
          f->Find(kAttention + ".v_proj.input_scale")->set_shape(0, 2);
        },
        Reason::kBadCheckpoint, "its shape [2] is not that of one number"},
       {"integer input scale",
        [](Folder* f) {
          MakeStatic(f);
          f->Find(kAttention + ".v_proj.input_scale")->set_dtype(v1::I8);
        },
        Reason::kBadCheckpoint, "a scale of dtype I8"},
       {"input scale of a dynamic input",
        [](Folder* f) {
          f->tensors.push_back(
              Tensor(kAttention + ".q_proj.input_scale", v1::IGNORED, v1::F32, {}));
        },
        Reason::kBadCheckpoint, "a scale that belongs to no quantized weight"}});
}

TEST(ReadQuantization, RefusesOtherCachesByName) {
  ExpectRefused(
      {{"cache scales without a cache",
        [](Folder* f) {
          AddCache(kAttention + ".k_scale", kAttention + ".v_scale", f);
          f->section()["kv_cache_scheme"] = nullptr;
        },
        Reason::kBadCheckpoint, "a scale that belongs to no quantized weight"},
       {"half a cache",
        [](Folder* f) { AddCache(kAttention + ".k_scale", kAttention + ".k_scale", f); },
        Reason::kBadCheckpoint, "self_attn.v_scale"},
       {"scales per head",
        [](Folder* f) {
          AddCache(kAttention + ".k_scale", kAttention + ".v_scale", f);
          f->Find(kAttention + ".k_scale")->set_shape(0, 3);
        },
        Reason::kUnsupported, "a cache scale of shape [3]"},
       {"INT8 cache",
        [](Folder* f) {
          AddCache(kAttention + ".k_scale", kAttention + ".v_scale", f);
          f->section()["kv_cache_scheme"]["type"] = "int";
        },
        Reason::kUnsupported, "kv_cache_scheme: static scales are handled for type float"},
       {"dynamic cache",
        [](Folder* f) {
          AddCache(kAttention + ".k_scale", kAttention + ".v_scale", f);
          f->section()["kv_cache_scheme"]["dynamic"] = true;
        },
        Reason::kUnsupported, "kv_cache_scheme: dynamic scales"},
       {"integer cache scale",
        [](Folder* f) {
          AddCache(kAttention + ".k_scale", kAttention + ".v_scale", f);
          f->Find(kAttention + ".v_scale")->set_dtype(v1::I32);
        },
        Reason::kBadCheckpoint, "a scale of dtype I32"}});
}

TEST(ReadQuantization, PlainFoldersArePlain) {
  const std::vector<v1::ModelTensor> tensors = {Tensor(kQ, v1::Q_PROJ, v1::BF16, {4, 4})};
  const auto read = ReadQuantization(ordered_json::object(), tensors);
  ASSERT_TRUE(read.ok());
  EXPECT_FALSE(read->tensors.at(0).quantized);
}

TEST(QuantizedConfigText, KeepsOrder) {
  ordered_json config = {{"zeta", 1}, {"alpha", {{"b", 2}, {"a", 3}}}};
  const std::string text = QuantizedConfigText(config, {{"quant_method", "x"}});
  EXPECT_LT(text.find("zeta"), text.find("alpha"));
  EXPECT_LT(text.find("\"b\""), text.find("\"a\""));
  EXPECT_LT(text.find("alpha"), text.find("quantization_config"));
  EXPECT_EQ(text.back(), '\n');
}

}  // namespace
}  // namespace octavo
